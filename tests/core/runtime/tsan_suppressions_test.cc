// ONNX Runtime is not built with ThreadSanitizer, which therefore does not see how its threads
// agree among themselves and reports what they hand to each other. A report with the library on one
// of its stacks is left out; races of our own code with itself are still found.

#if defined(__SANITIZE_THREAD__)
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_suppressions();
extern "C" const char* __tsan_default_suppressions() { return "race:libonnxruntime.so\n"; }
#endif
