from servolley.cli import main

raise SystemExit(main())
