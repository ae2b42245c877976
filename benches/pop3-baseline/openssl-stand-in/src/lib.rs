//! The two types of `openssl` 0.9 that the crate `pop3` names. Neither can be made, so there is no TLS that could be missing a check.

/// As the module of `openssl`.
pub mod ssl {
    use std::io::{Read, Result, Write};
    use std::marker::PhantomData;

    /// Never there.
    #[derive(Debug)]
    pub enum SslConnector {}

    impl SslConnector {
        /// Never called.
        #[allow(clippy::missing_errors_doc)]
        pub fn connect<S>(&self, _domain: &str, _stream: S) -> std::result::Result<SslStream<S>, std::fmt::Error> {
            match *self {}
        }
    }

    /// Never there.
    #[derive(Debug)]
    pub struct SslStream<S>(SslConnector, PhantomData<S>);

    impl<S> Read for SslStream<S> {
        fn read(&mut self, _: &mut [u8]) -> Result<usize> {
            match self.0 {}
        }
    }

    impl<S> Write for SslStream<S> {
        fn write(&mut self, _: &[u8]) -> Result<usize> {
            match self.0 {}
        }
        fn flush(&mut self) -> Result<()> {
            match self.0 {}
        }
    }
}
