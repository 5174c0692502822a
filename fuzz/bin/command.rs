//! libFuzzer on `targets::command`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| posthouse_fuzz::command(data));
