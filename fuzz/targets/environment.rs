#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate::untrusted::environment(bytes));
