//! libFuzzer on `targets::data`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| posthouse_fuzz::data(data));
