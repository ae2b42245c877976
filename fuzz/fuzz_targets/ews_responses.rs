//! `email_router_fuzz::ews_responses` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| email_router_fuzz::ews_responses(data));
