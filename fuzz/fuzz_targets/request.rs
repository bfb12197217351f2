#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| robot_env_fuzz::request(data));
