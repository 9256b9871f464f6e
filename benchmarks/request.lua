-- One prepared request, sent over and over; the counts as one JSON line at the end.
-- Arguments after "--": method, file of "Name: value" lines, body file, "stamps" or "-".
-- With "stamps" every answer's arrival is kept (steady seconds): a slow model answers in volleys, and a window that
-- does not begin and end with one counts wrong.

local answers = {}
arrivals = {}

local function read_file(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("*a")
  file:close()
  return content
end

local function keep_arrivals()
  local ffi = require("ffi")
  ffi.cdef("typedef struct { long s, ns; } instant_t; int clock_gettime(int, instant_t *);")
  local now = ffi.new("instant_t")
  response = function()
    ffi.C.clock_gettime(1, now)
    arrivals[#arrivals + 1] = tonumber(now.s) + tonumber(now.ns) * 1e-9
  end
end

function setup(thread)
  answers[#answers + 1] = thread
end

function init(args)
  wrk.method = args[1]
  for line in io.lines(args[2]) do
    local name, value = line:match("^([^:]+): (.*)$")
    wrk.headers[name] = value
  end
  local body = read_file(args[3])
  if #body > 0 then wrk.body = body end
  if args[4] == "stamps" then keep_arrivals() end
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%.6f,"failed":%d,"p50_us":%.1f,"p99_us":%.1f,"arrivals":[',
    summary.requests, summary.duration / 1e6, failed, latency:percentile(50), latency:percentile(99)))
  local first = true
  for _, thread in ipairs(answers) do
    for _, at in ipairs(thread:get("arrivals")) do
      io.write(first and "" or ",", string.format("%.6f", at))
      first = false
    end
  end
  io.write("]}\n")
end
