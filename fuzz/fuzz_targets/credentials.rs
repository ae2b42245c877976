//! `email_router_fuzz::credentials` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| email_router_fuzz::credentials(data));
