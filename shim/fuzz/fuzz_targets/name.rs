#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_shim::repo::fuzzing::name(data));
