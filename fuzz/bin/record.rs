//! libFuzzer on `targets::record`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| posthouse_fuzz::record(data));
