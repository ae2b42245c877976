//! `email_router_fuzz::spnego` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| email_router_fuzz::spnego(data));
