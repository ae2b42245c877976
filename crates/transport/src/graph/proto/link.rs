//! URLs of requests, and whether a link of an answer may be followed.

use url::Url;

use super::Malformed;

/// One segment of a path: everything that may have a meaning in a URL is escaped. `.` and `..` are steps also when they are escaped
/// (WHATWG URL); nothing at the service has such a name, so they become one that is not there either.
#[must_use]
pub fn segment(text: &str) -> String {
    let escaped = escape(text, b"-_.~@=");
    if matches!(text, "." | "..") { format!("_{escaped}") } else { escaped }
}

/// A value in a query.
#[must_use]
pub fn query(text: &str) -> String {
    escape(text, b"-_.~@,()'$;:/")
}

/// A string literal of OData (OData 4.01 URL conventions, 5.1.1.6.1): in quotes, with quotes inside doubled.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn escape(text: &str, kept: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // writing to a String cannot fail
        }
    }
    out
}

/// A `@odata.nextLink` or `@odata.deltaLink`, when it leads to the service that gave it: another place must not get our token.
///
/// # Errors
/// [`Malformed`] for everything else.
pub fn followed(base: &Url, link: &str) -> Result<Url, Malformed> {
    let url = Url::parse(link).map_err(|_| Malformed::new("the service gave a link that is no URL"))?;
    let path = base.path().trim_end_matches('/');
    let within = url.path().strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    let clean = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    if url.origin() == base.origin() && within && clean {
        Ok(url)
    } else {
        let host = url.host_str().unwrap_or("nowhere");
        Err(Malformed(format!("the service gave a link to another place ({host}), which is not followed")))
    }
}

/// The URL of an upload session: it carries its own authorization and lies on another host, but never without TLS (unless the service
/// itself is asked without, in a test).
///
/// # Errors
/// [`Malformed`] for everything else.
pub fn upload(base: &Url, link: &str) -> Result<Url, Malformed> {
    let url = Url::parse(link).map_err(|_| Malformed::new("the upload URL is no URL"))?;
    if url.host().is_some() && (url.scheme() == "https" || url.origin() == base.origin()) {
        Ok(url)
    } else {
        Err(Malformed::new("the upload URL does not use TLS"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_cannot_leave_their_place() {
        for (text, escaped) in [
            ("AAMkAGI2-_x=", "AAMkAGI2-_x="),
            ("a/b", "a%2Fb"),
            ("..", "_.."),
            ("o'neil@contoso.com", "o%27neil@contoso.com"),
            ("a b?c#d%", "a%20b%3Fc%23d%25"),
            ("é", "%C3%A9"),
        ] {
            assert_eq!(segment(text), escaped);
            let url = Url::parse(&format!("https://host/v1.0/users/{}/messages", segment(text))).unwrap();
            assert_eq!(url.path_segments().unwrap().count(), 4, "{text}");
        }
    }

    #[test]
    fn quotes_are_doubled() {
        let filter = format!("internetMessageId eq {}", quoted("<it's&more+#@x>"));
        assert_eq!(query(&filter), "internetMessageId%20eq%20'%3Cit''s%26more%2B%23@x%3E'");
    }

    #[test]
    fn only_links_to_the_service_are_followed() {
        let base = Url::parse("https://graph.microsoft.com/v1.0").unwrap();
        assert!(followed(&base, "https://graph.microsoft.com/v1.0/users/a/messages?$skiptoken=x").is_ok());
        assert!(followed(&base, "https://graph.microsoft.com:443/v1.0/x").is_ok());
        for bad in [
            "https://graph.microsoft.com.evil.example/v1.0/x",
            "https://evil.example/v1.0/x",
            "http://graph.microsoft.com/v1.0/x",
            "https://graph.microsoft.com:444/v1.0/x",
            "https://u:p@graph.microsoft.com/v1.0/x",
            "https://graph.microsoft.com/beta/x",
            "https://graph.microsoft.com/v1.00/x",
            "https://graph.microsoft.com/v1.0/../beta/x",
            "/v1.0/x",
            "",
        ] {
            assert!(followed(&base, bad).is_err(), "{bad}");
        }
        assert!(upload(&base, "https://outlook.office.com/api/v2.0/x?authtoken=y").is_ok());
        assert!(upload(&base, "http://outlook.office.com/api").is_err());
    }
}
