//! The tables of valid combinations (behaviour document 6.2 incoming, 6.3 outgoing), as data.

use email_router_model::Direction;

use crate::words::{
    AccessCredentials as Who, AccessType, AuthenticationType as Auth, DeploymentType, Protocol,
    ServerType as Server, UserType,
};

/// One row: for a server type in a direction, the protocols, and per authentication type whose credentials.
pub(super) struct Row {
    pub(super) server: Server,
    pub(super) direction: Direction,
    pub(super) protocols: &'static [Protocol],
    pub(super) authentication: &'static [(Auth, &'static [Who])],
}

use Direction::{Incoming, Outgoing};
use Who::{LocalSystemAccount as Local, OtherSpecified as Other, UserSpecified as User};

/// What Exchange Server takes: the dialog knows Windows authentication alone, its web server knows the others.
const EXCHANGE_SERVER: &[(Auth, &[Who])] = &[
    (Auth::WindowsAuthentication, &[Local, User, Other]),
    (Auth::Ntlm, &[User, Other]),
    (Auth::ClearText, &[User, Other]),
];

/// Both tables. `UserSpecified` further depends on the deployment: [`user_specified_allowed`].
///
/// Rows and entries of our own, which the original does not have: Maildir, IMAP, Exchange Server whatever its version and in both directions; Microsoft
/// Graph; OAuth 2.0, which proves an application and so takes other-specified credentials alone; Windows authentication for POP3 and IMAP; APOP
/// and CRAM-MD5, which prove the same name and password as clear text does and so take the same credentials.
pub(super) const TABLE: &[Row] = &[
    Row {
        server: Server::Exchange2003,
        direction: Incoming,
        protocols: &[Protocol::WebDAV],
        authentication: &[(Auth::WindowsAuthentication, &[Local, User, Other])],
    },
    Row {
        server: Server::Exchange2007,
        direction: Incoming,
        protocols: &[Protocol::ExchangeWebServices, Protocol::WebDAV],
        authentication: &[(Auth::WindowsAuthentication, &[Local, User, Other])],
    },
    Row {
        server: Server::Exchange2010Or2013,
        direction: Incoming,
        protocols: &[Protocol::ExchangeWebServices],
        authentication: &[(Auth::WindowsAuthentication, &[Local, User, Other])],
    },
    Row {
        server: Server::ExchangeOnline,
        direction: Incoming,
        protocols: &[Protocol::ExchangeWebServices, Protocol::MicrosoftGraph],
        authentication: &[(Auth::ClearText, &[User, Other]), (Auth::OAuth2, &[Other])],
    },
    Row {
        server: Server::ExchangeServer,
        direction: Incoming,
        protocols: &[Protocol::ExchangeWebServices],
        authentication: EXCHANGE_SERVER,
    },
    Row {
        server: Server::Pop3,
        direction: Incoming,
        protocols: &[Protocol::Pop3],
        authentication: &[
            (Auth::Ntlm, &[User, Other]),
            (Auth::ClearText, &[User, Other]),
            (Auth::Apop, &[User, Other]),
            (Auth::WindowsAuthentication, &[Local, User, Other]),
            (Auth::OAuth2, &[Other]),
        ],
    },
    Row {
        server: Server::Imap,
        direction: Incoming,
        protocols: &[Protocol::Imap],
        authentication: &[
            (Auth::WindowsAuthentication, &[Local, User, Other]),
            (Auth::Ntlm, &[User, Other]),
            (Auth::ClearText, &[User, Other]),
            (Auth::CramMd5, &[User, Other]),
            (Auth::OAuth2, &[Other]),
        ],
    },
    Row {
        server: Server::Maildir,
        direction: Incoming,
        protocols: &[Protocol::Maildir],
        authentication: &[(Auth::None, &[Local])],
    },
    Row {
        server: Server::Smtp,
        direction: Outgoing,
        protocols: &[Protocol::Smtp],
        authentication: &[
            (Auth::WindowsAuthentication, &[Local, User, Other]),
            (Auth::ClearText, &[User, Other]),
            (Auth::CramMd5, &[User, Other]),
            (Auth::OAuth2, &[Other]),
            (Auth::Anonymous, &[Local]),
        ],
    },
    Row {
        server: Server::ExchangeOnline,
        direction: Outgoing,
        protocols: &[Protocol::ExchangeWebServices, Protocol::MicrosoftGraph],
        authentication: &[(Auth::ClearText, &[User, Other]), (Auth::OAuth2, &[Other])],
    },
    Row {
        server: Server::ExchangeServer,
        direction: Outgoing,
        protocols: &[Protocol::ExchangeWebServices],
        authentication: EXCHANGE_SERVER,
    },
    Row {
        server: Server::Maildir,
        direction: Outgoing,
        protocols: &[Protocol::Maildir],
        authentication: &[(Auth::None, &[Local])],
    },
];

/// One way to set up a profile that the tables allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CombinationRow {
    /// Which way mail goes.
    pub direction: Direction,
    /// Which mail system.
    pub server: Server,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// How the router proves who it is.
    pub authentication: Auth,
    /// Whose credentials it uses.
    pub credentials: Who,
}

/// Every combination that the tables of `FORMAT.md` allow, in their order.
#[must_use]
pub fn combinations() -> Vec<CombinationRow> {
    let mut all = Vec::new();
    for row in TABLE {
        for &protocol in row.protocols {
            for &(authentication, who) in row.authentication {
                for &credentials in who.iter().filter(|_| protocol_takes(protocol, authentication)) {
                    let (direction, server) = (row.direction, row.server);
                    all.push(CombinationRow { direction, server, protocol, authentication, credentials });
                }
            }
        }
    }
    all
}

/// The row of a server type in a direction; `None`: not in this direction.
pub(super) fn row(server: Server, direction: Direction) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.server == server && row.direction == direction)
}

/// The server types of a direction.
pub(super) fn servers(direction: Direction) -> Vec<Server> {
    TABLE.iter().filter(|row| row.direction == direction).map(|row| row.server).collect()
}

impl Row {
    pub(super) fn authentication_types(&self) -> Vec<Auth> {
        self.authentication.iter().map(|(auth, _)| *auth).collect()
    }

    pub(super) fn credentials(&self, auth: Auth) -> &'static [Who] {
        self.authentication.iter().find(|(a, _)| *a == auth).map_or(&[], |(_, who)| who)
    }
}

/// Whether a protocol can use an authentication type that its server type has for another protocol.
pub(super) fn protocol_takes(protocol: Protocol, auth: Auth) -> bool {
    match protocol {
        Protocol::MicrosoftGraph => auth == Auth::OAuth2,
        _ => true,
    }
}

/// The protocol where the file names none: the first of the row; with OAuth 2.0 Microsoft Graph, since Exchange Online has no Exchange Web Services any more.
pub(super) fn usual_protocol(row: &Row, auth: Option<Auth>) -> Protocol {
    match auth {
        Some(Auth::OAuth2) if row.protocols.contains(&Protocol::MicrosoftGraph) => Protocol::MicrosoftGraph,
        _ => row.protocols[0],
    }
}

/// Whether a profile takes a user type: Exchange with other-specified name and password (6.1).
pub(super) fn takes_user_type(server: Server, who: Who, auth: Auth) -> bool {
    matches!(server, Server::ExchangeOnline | Server::ExchangeServer) && who == Other && auth != Auth::OAuth2
}

/// Whether a profile takes an access type: outgoing Exchange, other specified, administrator (6.1, 6.3) or application.
pub(super) fn takes_access_type(
    direction: Direction,
    server: Server,
    who: Who,
    auth: Auth,
    user_type: Option<UserType>,
) -> bool {
    let administrator = takes_user_type(server, who, auth) && user_type == Some(UserType::Administrator);
    direction == Outgoing && (administrator || (server == Server::ExchangeOnline && auth == Auth::OAuth2))
}

/// Whether the dialog of the original demands user type and access type; elsewhere they have defaults.
pub(super) fn demands_types(direction: Direction, server: Server, auth: Auth) -> bool {
    direction == Outgoing && server == Server::ExchangeOnline && auth == Auth::ClearText
}

/// The deployments whose mailboxes may use a profile with user-specified credentials. The embedded CRM runs on the own premises.
pub(super) fn user_specified_allowed(direction: Direction, server: Server) -> &'static [DeploymentType] {
    match (direction, server) {
        // 6.2: "on-premises product only", for every row
        (Incoming, _) => &[DeploymentType::MyCompany, DeploymentType::Embedded],
        // 6.3: yes per the 2016 page, which names no restriction; the 2015 Online help does not list it
        (Outgoing, Server::ExchangeOnline) => <DeploymentType as crate::words::Word>::ALL,
        // 6.3: on-premises and service-provider editions
        (Outgoing, _) => {
            &[DeploymentType::MyCompany, DeploymentType::OnlineServiceProvider, DeploymentType::Embedded]
        }
    }
}

/// All access types; for messages.
pub(super) const ACCESS_TYPES: &[AccessType] = &[AccessType::DelegateAccess, AccessType::SendAs];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Word;

    /// The two tables once more, written out the way the behaviour document shows them: a mistake has to be made twice.
    #[test]
    fn tables() {
        #[rustfmt::skip]
        let expected: &[(Direction, Server, Auth, [bool; 3])] = &[
            // Local, User, Other
            (Incoming, Server::Exchange2003, Auth::WindowsAuthentication, [true, true, true]),
            (Incoming, Server::Exchange2007, Auth::WindowsAuthentication, [true, true, true]),
            (Incoming, Server::Exchange2010Or2013, Auth::WindowsAuthentication, [true, true, true]),
            (Incoming, Server::ExchangeOnline, Auth::ClearText, [false, true, true]),
            (Incoming, Server::ExchangeOnline, Auth::OAuth2, [false, false, true]),
            (Incoming, Server::ExchangeServer, Auth::WindowsAuthentication, [true, true, true]),
            (Incoming, Server::ExchangeServer, Auth::Ntlm, [false, true, true]),
            (Incoming, Server::ExchangeServer, Auth::ClearText, [false, true, true]),
            (Incoming, Server::Pop3, Auth::Ntlm, [false, true, true]),
            (Incoming, Server::Pop3, Auth::ClearText, [false, true, true]),
            (Incoming, Server::Pop3, Auth::Apop, [false, true, true]),
            (Incoming, Server::Pop3, Auth::WindowsAuthentication, [true, true, true]),
            (Incoming, Server::Pop3, Auth::OAuth2, [false, false, true]),
            (Incoming, Server::Imap, Auth::WindowsAuthentication, [true, true, true]),
            (Incoming, Server::Imap, Auth::Ntlm, [false, true, true]),
            (Incoming, Server::Imap, Auth::ClearText, [false, true, true]),
            (Incoming, Server::Imap, Auth::CramMd5, [false, true, true]),
            (Incoming, Server::Imap, Auth::OAuth2, [false, false, true]),
            (Incoming, Server::Maildir, Auth::None, [true, false, false]),
            (Outgoing, Server::Smtp, Auth::WindowsAuthentication, [true, true, true]),
            (Outgoing, Server::Smtp, Auth::ClearText, [false, true, true]),
            (Outgoing, Server::Smtp, Auth::CramMd5, [false, true, true]),
            (Outgoing, Server::Smtp, Auth::OAuth2, [false, false, true]),
            (Outgoing, Server::Smtp, Auth::Anonymous, [true, false, false]),
            (Outgoing, Server::ExchangeOnline, Auth::ClearText, [false, true, true]),
            (Outgoing, Server::ExchangeOnline, Auth::OAuth2, [false, false, true]),
            (Outgoing, Server::ExchangeServer, Auth::WindowsAuthentication, [true, true, true]),
            (Outgoing, Server::ExchangeServer, Auth::Ntlm, [false, true, true]),
            (Outgoing, Server::ExchangeServer, Auth::ClearText, [false, true, true]),
            (Outgoing, Server::Maildir, Auth::None, [true, false, false]),
        ];
        for direction in [Incoming, Outgoing] {
            for server in Server::ALL {
                for auth in Auth::ALL {
                    let wanted = expected
                        .iter()
                        .find(|(d, s, a, _)| (*d, s, a) == (direction, server, auth))
                        .map_or([false; 3], |e| e.3);
                    let found = row(*server, direction).map_or([false; 3], |row| {
                        [Local, User, Other].map(|who| row.credentials(*auth).contains(&who))
                    });
                    assert_eq!(found, wanted, "{direction} {server} {auth}");
                }
            }
        }
    }

    /// The column "Protocol": which ones, the default first.
    #[test]
    fn protocols() {
        use Protocol::{
            ExchangeWebServices as Ews, Imap, Maildir, MicrosoftGraph as Graph, Pop3, Smtp, WebDAV,
        };
        let expected: &[(Direction, Server, &[Protocol])] = &[
            (Incoming, Server::Exchange2003, &[WebDAV]),
            (Incoming, Server::Exchange2007, &[Ews, WebDAV]),
            (Incoming, Server::Exchange2010Or2013, &[Ews]),
            (Incoming, Server::ExchangeOnline, &[Ews, Graph]),
            (Incoming, Server::ExchangeServer, &[Ews]),
            (Incoming, Server::Pop3, &[Pop3]),
            (Incoming, Server::Imap, &[Imap]),
            (Incoming, Server::Maildir, &[Maildir]),
            (Outgoing, Server::Smtp, &[Smtp]),
            (Outgoing, Server::ExchangeOnline, &[Ews, Graph]),
            (Outgoing, Server::ExchangeServer, &[Ews]),
            (Outgoing, Server::Maildir, &[Maildir]),
        ];
        for direction in [Incoming, Outgoing] {
            for server in Server::ALL {
                let wanted = expected.iter().find(|(d, s, _)| (*d, s) == (direction, server)).map(|e| e.2);
                assert_eq!(row(*server, direction).map(|r| r.protocols), wanted, "{direction} {server}");
            }
        }
    }

    /// The footnotes about user-specified credentials.
    #[test]
    fn user_specified() {
        use DeploymentType::{CrmOnline, Embedded, MyCompany, OnlineServiceProvider as Provider};
        for row in TABLE {
            let expected: &[DeploymentType] = match (row.direction, row.server) {
                (Incoming, _) => &[MyCompany, Embedded],
                (Outgoing, Server::ExchangeOnline) => &[MyCompany, Provider, CrmOnline, Embedded],
                (Outgoing, _) => &[MyCompany, Provider, Embedded],
            };
            let allowed = user_specified_allowed(row.direction, row.server);
            assert_eq!(allowed, expected, "{} {}", row.direction, row.server);
        }
    }
}
