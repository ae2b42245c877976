//! Which way leads to a server.

use std::fmt;

use http::header::HeaderValue;
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use crate::{Error, ErrorKind, Result};

/// Which proxy is used.
#[derive(Clone, PartialEq, Eq)]
pub enum Proxy {
    /// What the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`) or the platform says.
    System,
    /// None, whatever the environment says.
    None,
    /// This one for every server (`http` or `https`); name and password for it (Basic) may be in the URL.
    Url(Url),
}

impl fmt::Debug for Proxy {
    /// The URL without its name and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("System"),
            Self::None => f.write_str("None"),
            Self::Url(url) => f.debug_tuple("Url").field(&url.origin().ascii_serialization()).finish(),
        }
    }
}

/// Chooses the way to a server.
pub(crate) struct Routes(Option<Matcher>);

/// A proxy on the way.
#[derive(Debug)]
pub(crate) struct Hop {
    /// `http://host:port`, for messages.
    pub(crate) place: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The way to the proxy itself is inside TLS.
    pub(crate) tls: bool,
    /// `Proxy-Authorization`; marked as sensitive.
    pub(crate) authorization: Option<HeaderValue>,
}

impl Routes {
    pub(crate) fn new(proxy: &Proxy) -> Result<Self> {
        Ok(Self(match proxy {
            Proxy::System => Some(Matcher::from_system()),
            Proxy::None => None,
            Proxy::Url(url) => {
                if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
                    let message = format!(
                        "the proxy {:?} cannot be used: its scheme is {}",
                        Proxy::Url(url.clone()),
                        url.scheme()
                    );
                    return Err(
                        Error::new(ErrorKind::Settings, message).with_hint("write it as http://host:port")
                    );
                }
                Some(Matcher::builder().all(url.as_str()).build())
            }
        }))
    }

    /// The proxy on the way to this URL; `None`: the way is direct.
    pub(crate) fn hop(&self, url: &Url) -> Result<Option<Hop>> {
        let Some(matcher) = &self.0 else { return Ok(None) };
        let Ok(uri) = url.as_str().parse::<http::Uri>() else { return Ok(None) };
        let Some(found) = matcher.intercept(&uri) else { return Ok(None) };
        let uri = found.uri();
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let scheme = uri.scheme_str().unwrap_or("http");
        let tls = scheme == "https";
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let shown = uri.host().unwrap_or_default();
        if !tls && scheme != "http" {
            let message =
                format!("the proxy {scheme}://{shown}:{port} cannot be used: only http and https are known");
            return Err(Error::new(ErrorKind::Settings, message)
                .with_hint("set an HTTP proxy in HTTPS_PROXY, or none"));
        }
        let authorization = found.basic_auth().cloned().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        Ok(Some(Hop { place: format!("{scheme}://{shown}:{port}"), host, port, tls, authorization }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_for_all_and_none() {
        let url: Url = "https://mail.example.com/EWS/Exchange.asmx".parse().unwrap();
        assert!(Routes::new(&Proxy::None).unwrap().hop(&url).unwrap().is_none());
        for (proxy, place, tls, authorized) in [
            ("http://proxy.test:3128", "http://proxy.test:3128", false, false),
            ("http://ann:s3cr3t@proxy.test", "http://proxy.test:80", false, true),
            ("https://ann:s3cr3t@[::1]:8443/", "https://[::1]:8443", true, true),
        ] {
            let proxy = Proxy::Url(proxy.parse().unwrap());
            let hop = Routes::new(&proxy).unwrap().hop(&url).unwrap().unwrap();
            assert_eq!((hop.place.as_str(), hop.tls, hop.authorization.is_some()), (place, tls, authorized));
            assert!(!hop.host.contains('['));
            let shown = format!("{hop:?} {proxy:?}");
            assert!(!shown.contains("s3cr3t") && !shown.contains("czNjcjN0"), "{shown}");
        }
        let socks = Routes::new(&Proxy::Url("socks5://ann:s3cr3t@proxy.test:1080".parse().unwrap()));
        let error = socks.err().unwrap();
        assert!(error.kind() == ErrorKind::Settings && !error.to_string().contains("s3cr3t"), "{error}");
    }
}
