//! The words of the dialogs: every enumeration of the file.

use std::fmt;

/// An enumeration that the file spells as a word.
pub trait Word: Copy + Eq + fmt::Display + 'static {
    /// Every word, in the order of the documentation.
    const ALL: &'static [Self];

    /// How the file spells it.
    fn name(self) -> &'static str;

    /// Reads a word, without regard to letter case; `None` when it is not one of [`Self::ALL`].
    #[must_use]
    fn from_word(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|word| word.name().eq_ignore_ascii_case(text.trim()))
    }
}

/// The words of a list for a message: `A, B, C`.
pub(crate) fn list<W: Word>(words: &[W]) -> String {
    words.iter().map(|w| w.name()).collect::<Vec<_>>().join(", ")
}

macro_rules! words {
    ($($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident),* $(,)? })*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant),* }

        impl Word for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),*];
            fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    )* };
}

words! {
    /// Which kind of mail system a profile talks to (the dialog's "E-mail Server Type").
    ServerType {
        /// Exchange Server 2003, incoming.
        Exchange2003,
        /// Exchange Server 2007, incoming.
        Exchange2007,
        /// Exchange Server 2010 or 2013, incoming.
        Exchange2010Or2013,
        /// Exchange Online, incoming and outgoing.
        ExchangeOnline,
        /// Exchange Server of any version with Exchange Web Services (2007 to Subscription Edition), incoming and outgoing. Ours.
        ExchangeServer,
        /// Any POP3 server, incoming.
        Pop3,
        /// Any IMAP server, incoming. Ours; the original has none.
        Imap,
        /// Any SMTP server, outgoing.
        Smtp,
        /// Maildir folders on this machine, incoming and outgoing. Ours; the original has none.
        Maildir,
    }

    /// How the mail system is spoken to.
    Protocol {
        /// WebDAV of Exchange 2003 and 2007.
        WebDAV,
        /// Exchange Web Services.
        ExchangeWebServices,
        /// Microsoft Graph. Ours.
        MicrosoftGraph,
        /// POP3 (RFC 1939).
        Pop3,
        /// IMAP (RFC 3501, RFC 9051). Ours.
        Imap,
        /// SMTP (RFC 5321).
        Smtp,
        /// Files in Maildir folders. Ours.
        Maildir,
    }

    /// How the router proves who it is.
    AuthenticationType {
        /// Windows authentication (Negotiate: Kerberos or NTLM).
        WindowsAuthentication,
        /// NTLM.
        Ntlm,
        /// Name and password (POP3 USER/PASS, SASL PLAIN or LOGIN, HTTP Basic).
        ClearText,
        /// None at all; internal SMTP servers only.
        Anonymous,
        /// POP3 APOP (RFC 1939 section 7). Ours.
        Apop,
        /// SASL CRAM-MD5 (RFC 2195), SMTP. Ours.
        CramMd5,
        /// An access token of OAuth 2.0 that the router gets as an application (client credentials, RFC 6749 section 4.4). Ours.
        OAuth2,
        /// Nothing to prove: Maildir. Ours.
        None,
    }

    /// How the account of a profile gets into other people's mailboxes of Exchange.
    MailboxAccess {
        /// By the permission Full Access on each mailbox.
        FullAccess,
        /// By impersonation (the role ApplicationImpersonation, or an application's permission `full_access_as_app`).
        Impersonation,
    }

    /// What deleting a message means in Exchange.
    DeleteType {
        /// It goes to Deleted Items.
        MoveToDeletedItems,
        /// It goes where users can still recover it for a time.
        SoftDelete,
        /// It is gone.
        HardDelete,
    }

    /// Which of Microsoft's clouds a tenant is in.
    Cloud {
        /// The worldwide one.
        Public,
        /// Microsoft 365 Government, GCC High.
        UsGovernment,
        /// Microsoft 365 Government, DoD.
        UsDefense,
        /// Operated by 21Vianet in China.
        China,
    }

    /// Whose credentials the router uses (the dialog's "Access Credentials").
    AccessCredentials {
        /// The account that the router itself runs under.
        LocalSystemAccount,
        /// Each mailbox's own, entered in the CRM (or in this file for the embedded CRM).
        UserSpecified,
        /// One name and password for every mailbox of the profile.
        OtherSpecified,
    }

    /// What the account of an Exchange Online profile is.
    UserType {
        /// One set of credentials for every mailbox of the tenant.
        Administrator,
        /// Each mailbox's own address as the name, with the profile's password.
        User,
    }

    /// How an Exchange Online administrator sends for somebody else.
    AccessType {
        /// Recipients see "on behalf of".
        DelegateAccess,
        /// Recipients see the sender alone.
        SendAs,
    }

    /// How a connection is encrypted.
    TlsMode {
        /// TLS from the first byte (POP3 port 995, IMAP port 993, SMTP port 465, https).
        Implicit,
        /// Upgraded by STLS or STARTTLS; nothing is sent when the server does not offer it.
        StartTls,
        /// Upgraded where the server offers it. Anybody on the way can suppress the offer.
        StartTlsIfOffered,
        /// Not encrypted.
        None,
    }

    /// Where a CRM organization runs (the dialog's "Deployment").
    DeploymentType {
        /// "My company": the CRM server of the own network.
        MyCompany,
        /// "An online service provider": hosted by a partner.
        OnlineServiceProvider,
        /// "Microsoft Dynamics CRM Online".
        CrmOnline,
        /// The embedded CRM: one SQLite file. Ours.
        Embedded,
    }

    /// Who decides which mail belongs in an organization on a server.
    EmailProcessing {
        /// The CRM where its e-mail channel is the Email Router (`organization.emailconnectionchannel` 1), else the router.
        Automatic,
        /// The CRM, by the messages that Microsoft's own router used.
        Crm,
        /// This router.
        Router,
    }

    /// By which protocol an organization on a server is asked.
    CrmEndpoint {
        /// The Web API where the server has it, else the Organization Service.
        Automatic,
        /// The Web API: CRM 2016 and later.
        WebApi,
        /// The Organization Service (SOAP), for CRM 2011 to 2015; the CRM decides then.
        OrganizationService,
    }

    /// What is done with a message whose submission ended in doubt and could not be cleared up.
    InDoubtPolicy {
        /// It is reported and left alone; nobody gets it twice.
        Report,
        /// It is sent again; somebody may get it twice.
        Resend,
    }

    /// What is remembered of each decision about an incoming message.
    DecisionHistory {
        /// Nothing.
        None,
        /// The decision with every step.
        Records,
        /// That and the header section, so that the decision can be made anew under other settings.
        WithHeaders,
    }

    /// Which value counts where both `ProviderOverrides` and a profile give one.
    OverridePolicy {
        /// The override, as its name says.
        Overrides,
        /// The profile's own; the override replaces only the built-in default.
        Profiles,
    }
}

/// A version of Exchange Server as Exchange Web Services name it (`RequestServerVersion`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExchangeVersion {
    /// `Exchange2007_SP1`.
    Exchange2007Sp1,
    /// `Exchange2010`.
    Exchange2010,
    /// `Exchange2010_SP1`.
    Exchange2010Sp1,
    /// `Exchange2010_SP2`.
    Exchange2010Sp2,
    /// `Exchange2013`.
    Exchange2013,
    /// `Exchange2013_SP1`.
    Exchange2013Sp1,
    /// `Exchange2016`.
    Exchange2016,
}

impl Word for ExchangeVersion {
    const ALL: &'static [Self] = &[
        Self::Exchange2007Sp1,
        Self::Exchange2010,
        Self::Exchange2010Sp1,
        Self::Exchange2010Sp2,
        Self::Exchange2013,
        Self::Exchange2013Sp1,
        Self::Exchange2016,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Exchange2007Sp1 => "Exchange2007_SP1",
            Self::Exchange2010 => "Exchange2010",
            Self::Exchange2010Sp1 => "Exchange2010_SP1",
            Self::Exchange2010Sp2 => "Exchange2010_SP2",
            Self::Exchange2013 => "Exchange2013",
            Self::Exchange2013Sp1 => "Exchange2013_SP1",
            Self::Exchange2016 => "Exchange2016",
        }
    }
}

impl fmt::Display for ExchangeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which deployments may stand beside each other in one router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeploymentFamily {
    /// My company and online service providers.
    OnPremises,
    /// Microsoft's own online service.
    Online,
    /// The embedded CRM.
    Embedded,
}

impl DeploymentType {
    /// The family it belongs to.
    #[must_use]
    pub const fn family(self) -> DeploymentFamily {
        match self {
            Self::MyCompany | Self::OnlineServiceProvider => DeploymentFamily::OnPremises,
            Self::CrmOnline => DeploymentFamily::Online,
            Self::Embedded => DeploymentFamily::Embedded,
        }
    }
}

impl ServerType {
    /// Whether it is an Exchange Server of the own network.
    #[must_use]
    pub const fn is_on_premises_exchange(self) -> bool {
        matches!(
            self,
            Self::Exchange2003 | Self::Exchange2007 | Self::Exchange2010Or2013 | Self::ExchangeServer
        )
    }
}

/// How much is logged: the scale of the 2016/365 documentation. (The 2008 scale called 1 to 3 Normal, Advance and Details.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum LogLevel {
    /// 0: nothing.
    #[default]
    Off,
    /// 1: errors only.
    Errors,
    /// 2: detailed, one mailbox at a time.
    Mailboxes,
    /// 3: very detailed, one message at a time.
    Messages,
}

impl LogLevel {
    /// The level of a number; `None` above 3.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Off),
            1 => Some(Self::Errors),
            2 => Some(Self::Mailboxes),
            3 => Some(Self::Messages),
            _ => None,
        }
    }
}
