//! Autodiscover: the SOAP form \[MS-OXWSADISC\] and the plain form ("POX") \[MS-OXDSCLI\].

use bytes::Bytes;
use email_router_model::EmailAddress;

use super::tree::{Node, NotXml, Ns};
use super::xml::Xml;

/// What a server of Autodiscover answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Where EWS is.
    Found(EwsUrls),
    /// Ask again for this address.
    RedirectAddress(String),
    /// Ask there.
    RedirectUrl(String),
    /// It knows nothing, or does not tell: its code and words.
    Refused(String),
}

/// The addresses of EWS in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EwsUrls {
    /// From everywhere.
    pub external: Option<String>,
    /// From within the network of the server.
    pub internal: Option<String>,
}

/// A request of the SOAP form (`GetUserSettings`) to this URL.
#[must_use]
pub fn soap_request(url: &str, address: &EmailAddress) -> Bytes {
    let mut xml = Xml::new();
    xml.with(
        "soap:Envelope",
        &[
            ("xmlns:soap", "http://schemas.xmlsoap.org/soap/envelope/"),
            ("xmlns:a", "http://schemas.microsoft.com/exchange/2010/Autodiscover"),
            ("xmlns:wsa", "http://www.w3.org/2005/08/addressing"),
        ],
        |xml| {
            xml.within("soap:Header", |xml| {
                xml.leaf("a:RequestedServerVersion", "Exchange2010")
                    .leaf("wsa:Action", SOAP_ACTION)
                    .leaf("wsa:To", url);
            });
            xml.within("soap:Body", |xml| {
                xml.within("a:GetUserSettingsRequestMessage", |xml| {
                    xml.within("a:Request", |xml| {
                        xml.within("a:Users", |xml| {
                            xml.within("a:User", |xml| {
                                xml.leaf("a:Mailbox", address.as_str());
                            });
                        });
                        xml.within("a:RequestedSettings", |xml| {
                            xml.leaf("a:Setting", "InternalEwsUrl").leaf("a:Setting", "ExternalEwsUrl");
                        });
                    });
                });
            });
        },
    );
    Bytes::from(xml.into_string())
}

const SOAP_ACTION: &str =
    "http://schemas.microsoft.com/exchange/2010/Autodiscover/Autodiscover/GetUserSettings";

/// A request of the plain form.
#[must_use]
pub fn plain_request(address: &EmailAddress) -> Bytes {
    let mut xml = Xml::new();
    let schema = "http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006";
    xml.with("Autodiscover", &[("xmlns", schema)], |xml| {
        xml.within("Request", |xml| {
            xml.leaf("EMailAddress", address.as_str()).leaf(
                "AcceptableResponseSchema",
                "http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a",
            );
        });
    });
    Bytes::from(xml.into_string())
}

/// Reads an answer of the SOAP form.
///
/// # Errors
/// [`NotXml`] where it is none.
pub fn read_soap(document: &[u8]) -> Result<Outcome, NotXml> {
    let envelope = Node::parse(document)?;
    if let Some(fault) = envelope.find(Ns::Soap, "Fault") {
        let words = fault.child_named("faultstring").map(Node::text).unwrap_or("SOAP fault");
        return Ok(Outcome::Refused(words.trim().to_owned()));
    }
    let Some(response) = envelope.find(Ns::Autodiscover, "Response") else {
        return Err(NotXml("no answer of Autodiscover".to_owned()));
    };
    let user = response.find(Ns::Autodiscover, "UserResponse");
    let told = user.unwrap_or(response);
    let text = |node: &Node, name| node.text_of(Ns::Autodiscover, name).map(str::to_owned);
    let target = text(told, "RedirectTarget");
    let code =
        [told, response].iter().find_map(|node| text(node, "ErrorCode").filter(|code| code != "NoError"));
    match (code.as_deref(), target) {
        (Some("RedirectAddress"), Some(target)) => return Ok(Outcome::RedirectAddress(target)),
        (Some("RedirectUrl"), Some(target)) => return Ok(Outcome::RedirectUrl(target)),
        (Some(code), _) => {
            let words = text(told, "ErrorMessage").or_else(|| text(response, "ErrorMessage"));
            return Ok(Outcome::Refused(format!("{code}: {}", words.unwrap_or_default())));
        }
        (None, _) => {}
    }
    let settings = told.child(Ns::Autodiscover, "UserSettings").map_or(&[][..], Node::children);
    let setting = |name: &str| {
        let found = settings.iter().find(|s| s.text_of(Ns::Autodiscover, "Name") == Some(name));
        found.and_then(|setting| text(setting, "Value"))
    };
    Ok(found(setting("ExternalEwsUrl"), setting("InternalEwsUrl")))
}

/// Reads an answer of the plain form.
///
/// # Errors
/// [`NotXml`] where it is none.
pub fn read_plain(document: &[u8]) -> Result<Outcome, NotXml> {
    const NS: Ns = Ns::PlainAutodiscover;
    let root = Node::parse(document)?;
    if !root.is(NS, "Autodiscover") {
        return Err(NotXml(format!("no answer of Autodiscover but <{}>", root.name())));
    }
    if let Some(error) = root.find(NS, "Error") {
        let part = |name| error.text_of(NS, name).unwrap_or_default();
        return Ok(Outcome::Refused(format!("{} {}", part("ErrorCode"), part("Message"))));
    }
    let Some(account) = root.find(NS, "Account") else {
        return Err(NotXml("an answer of Autodiscover without an account".to_owned()));
    };
    let text = |name| account.text_of(NS, name).map(str::to_owned);
    match account.text_of(NS, "Action") {
        Some("redirectAddr") => {
            return Ok(match text("RedirectAddr") {
                Some(address) => Outcome::RedirectAddress(address),
                None => Outcome::Refused("a redirect to no address".to_owned()),
            });
        }
        Some("redirectUrl") => {
            return Ok(match text("RedirectUrl") {
                Some(url) => Outcome::RedirectUrl(url),
                None => Outcome::Refused("a redirect to no URL".to_owned()),
            });
        }
        _ => {}
    }
    // EXCH is for within the network, EXPR for everywhere
    let url = |kind: &str| {
        let protocols = account.children().iter().filter(|p| p.is(NS, "Protocol"));
        let mut of_kind = protocols.filter(|p| p.text_of(NS, "Type") == Some(kind));
        of_kind.find_map(|p| p.text_of(NS, "EwsUrl")).map(str::to_owned)
    };
    Ok(found(url("EXPR"), url("EXCH")))
}

fn found(external: Option<String>, internal: Option<String>) -> Outcome {
    if external.is_none() && internal.is_none() {
        return Outcome::Refused("the mailbox has no Exchange Web Services".to_owned());
    }
    Outcome::Found(EwsUrls { external, internal })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(account: &str) -> Outcome {
        let text = format!(
            "<Autodiscover xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006\"><Response \
             xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a\">{account}</Response></Autodiscover>"
        );
        read_plain(text.as_bytes()).unwrap()
    }

    fn soap(user: &str) -> Outcome {
        let text = format!(
            "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:a=\"http://schemas.microsoft.com/exchange/2010/Autodiscover\"><s:Body>\
             <a:GetUserSettingsResponseMessage><a:Response><a:ErrorCode>NoError</a:ErrorCode><a:UserResponses><a:UserResponse>{user}</a:UserResponse></a:UserResponses>\
             </a:Response></a:GetUserSettingsResponseMessage></s:Body></s:Envelope>"
        );
        read_soap(text.as_bytes()).unwrap()
    }

    fn urls(external: Option<&str>, internal: Option<&str>) -> Outcome {
        Outcome::Found(EwsUrls {
            external: external.map(str::to_owned),
            internal: internal.map(str::to_owned),
        })
    }

    #[test]
    fn the_plain_form() {
        let protocol =
            |kind: &str, url: &str| format!("<Protocol><Type>{kind}</Type><EwsUrl>{url}</EwsUrl></Protocol>");
        for (account, due) in [
            (
                format!(
                    "<Account><Action>settings</Action>{}{}{}</Account>",
                    protocol("EXCH", "in"),
                    protocol("EXPR", "out"),
                    protocol("WEB", "no")
                ),
                urls(Some("out"), Some("in")),
            ),
            (format!("<Account>{}</Account>", protocol("EXCH", "in")), urls(None, Some("in"))),
            (
                "<Account><Action>redirectAddr</Action><RedirectAddr>a@b.test</RedirectAddr></Account>"
                    .to_owned(),
                Outcome::RedirectAddress("a@b.test".into()),
            ),
            (
                "<Account><Action>redirectUrl</Action><RedirectUrl>https://x/</RedirectUrl></Account>"
                    .to_owned(),
                Outcome::RedirectUrl("https://x/".into()),
            ),
            (
                "<Account><Action>redirectUrl</Action></Account>".to_owned(),
                Outcome::Refused("a redirect to no URL".into()),
            ),
            (
                "<Account><Action>settings</Action></Account>".to_owned(),
                Outcome::Refused("the mailbox has no Exchange Web Services".into()),
            ),
        ] {
            assert_eq!(plain(&account), due, "{account}");
        }
        let refused = "<Autodiscover xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006\"><Response><Error><ErrorCode>500</ErrorCode>\
                       <Message>unknown</Message></Error></Response></Autodiscover>";
        assert_eq!(read_plain(refused.as_bytes()).unwrap(), Outcome::Refused("500 unknown".into()));
        for nonsense in ["<html/>", "<Autodiscover/>", ""] {
            assert!(read_plain(nonsense.as_bytes()).is_err());
        }
    }

    #[test]
    fn the_soap_form() {
        let setting = |name: &str, url: &str| {
            format!("<a:UserSetting><a:Name>{name}</a:Name><a:Value>{url}</a:Value></a:UserSetting>")
        };
        for (user, due) in [
            (
                format!(
                    "<a:ErrorCode>NoError</a:ErrorCode><a:UserSettings>{}{}</a:UserSettings>",
                    setting("InternalEwsUrl", "in"),
                    setting("ExternalEwsUrl", "out")
                ),
                urls(Some("out"), Some("in")),
            ),
            (
                "<a:ErrorCode>RedirectAddress</a:ErrorCode><a:RedirectTarget>a@b.test</a:RedirectTarget>"
                    .to_owned(),
                Outcome::RedirectAddress("a@b.test".into()),
            ),
            (
                "<a:ErrorCode>RedirectUrl</a:ErrorCode><a:RedirectTarget>https://x/</a:RedirectTarget>"
                    .to_owned(),
                Outcome::RedirectUrl("https://x/".into()),
            ),
            (
                "<a:ErrorCode>InvalidUser</a:ErrorCode><a:ErrorMessage>who?</a:ErrorMessage>".to_owned(),
                Outcome::Refused("InvalidUser: who?".into()),
            ),
            (
                "<a:ErrorCode>NoError</a:ErrorCode>".to_owned(),
                Outcome::Refused("the mailbox has no Exchange Web Services".into()),
            ),
        ] {
            assert_eq!(soap(&user), due, "{user}");
        }
        assert!(read_soap(b"<html/>").is_err());
    }
}
