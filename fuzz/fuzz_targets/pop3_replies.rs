//! `email_router_fuzz::pop3_replies` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| email_router_fuzz::pop3_replies(data));
