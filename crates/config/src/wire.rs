//! The file's shape, element by element. Nothing here has a meaning yet: every value is text, everything is optional, and
//! [`crate::settings`] is where defaults, units and ranges are decided. `FORMAT.md` beside this crate explains each element.
//!
//! yaserde reads and writes these types. It never sees the file itself: the lint pass hands it a cleaned copy with the
//! documented letter case and without unknown elements, since yaserde drops those silently, takes the last of two duplicates,
//! and is quadratic on deep nesting.

use yaserde::{YaDeserialize, YaSerialize};

/// What may stand inside an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Text.
    Value,
    /// Further elements.
    Section(&'static [Element]),
}

/// One element of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    /// The documented spelling.
    pub name: &'static str,
    /// What stands inside.
    pub content: Content,
    /// Whether it may stand more than once in its parent.
    pub repeated: bool,
}

macro_rules! section {
    ($(#[$meta:meta])* $name:ident $root:literal
        values { $($(#[$vm:meta])* $vf:ident $vt:literal),* $(,)? }
        lists { $($(#[$lm:meta])* $lf:ident $lt:literal),* $(,)? }
        sections { $($(#[$om:meta])* $of:ident $oty:ident $ot:literal),* $(,)? }
        repeated { $($(#[$rm:meta])* $rf:ident $rty:ident $rt:literal),* $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, YaSerialize, YaDeserialize)]
        #[yaserde(rename = $root)]
        pub struct $name {
            $($(#[$vm])* #[doc = concat!("`", $vt, "`")] #[yaserde(rename = $vt)] pub $vf: Option<String>,)*
            $($(#[$lm])* #[doc = concat!("`", $lt, "`, repeated")] #[yaserde(rename = $lt)] pub $lf: Vec<String>,)*
            $($(#[$om])* #[doc = concat!("`", $ot, "`")] #[yaserde(rename = $ot)] pub $of: Option<$oty>,)*
            $($(#[$rm])* #[doc = concat!("`", $rt, "`, repeated")] #[yaserde(rename = $rt)] pub $rf: Vec<$rty>,)*
        }

        impl $name {
            /// The elements that may stand inside.
            pub const ELEMENTS: &'static [Element] = &[
                $(Element { name: $vt, content: Content::Value, repeated: false },)*
                $(Element { name: $lt, content: Content::Value, repeated: true },)*
                $(Element { name: $ot, content: Content::Section($oty::ELEMENTS), repeated: false },)*
                $(Element { name: $rt, content: Content::Section($rty::ELEMENTS), repeated: true },)*
            ];
        }
    };
}

section! {
    /// The whole file.
    Configuration "Configuration"
    values {}
    lists {}
    sections {
        system SystemConfiguration "SystemConfiguration",
        profiles ConfigurationProfiles "ConfigurationProfiles",
        deployments Deployments "Deployments",
        mailboxes Mailboxes "Mailboxes",
        router Router "Router",
    }
    repeated {}
}

section! {
    /// The settings of the service; names and meaning as published.
    SystemConfiguration "SystemConfiguration"
    values {
        max_threads "MaxThreads",
        max_thread_execution "MaxThreadExecution",
        scheduling_period "SchedulingPeriod",
        config_refresh_period "ConfigRefreshPeriod",
        config_update_period "ConfigUpdatePeriod",
        log_level "LogLevel",
        log_file "LogFile",
    }
    lists {}
    sections { overrides ProviderOverrides "ProviderOverrides" }
    repeated {}
}

section! {
    /// Values that count for every profile.
    ProviderOverrides "ProviderOverrides"
    values {
        cache_capacity "CacheCapacity",
        pending_status_delay "PendingStatusDelay",
        sending_status_delay "SendingStatusDelay",
        maximum_delivery_attempts "MaximumDeliveryAttempts",
        ews_retrieve_message_count "EWSRetrieveMessageCount",
        batch_size "BatchSize",
        request_batch_size "RequestBatchSize",
    }
    lists {}
    sections {}
    repeated {}
}

section! {
    /// The profiles.
    ConfigurationProfiles "ConfigurationProfiles"
    values {}
    lists {}
    sections {}
    repeated { profiles ConfigurationProfile "ConfigurationProfile" }
}

section! {
    /// One configuration profile: how to reach one mail system in one direction.
    ConfigurationProfile "ConfigurationProfile"
    values {
        name "Name",
        direction "Direction",
        server_type "ServerType",
        protocol "Protocol",
        authentication_type "AuthenticationType",
        email_server "EmailServer",
        exchange_web_services_url "ExchangeWebServicesUrl",
        use_autodiscover "UseAutodiscover",
        path "Path",
        access_credentials "AccessCredentials",
        user_name "UserName",
        password "Password",
        user_type "UserType",
        access_type "AccessType",
        mailbox_access "MailboxAccess",
        cloud "Cloud",
        graph_url "GraphUrl",
        exchange_version "ExchangeVersion",
        folder "Folder",
        use_notifications "UseNotifications",
        delete_type "DeleteType",
        save_sent_items "SaveSentItems",
        kerberos_principal "KerberosPrincipal",
        keytab_file "KeytabFile",
        use_ssl "UseSsl",
        tls_mode "TlsMode",
        allow_clear_text_without_tls "AllowClearTextWithoutTls",
        network_port "NetworkPort",
        connection_timeout "ConnectionTimeout",
        operation_timeout "OperationTimeout",
        polling_period "PollingPeriod",
        max_connections "MaxConnections",
        max_message_count "MaxMessageCount",
        max_message_size "MaxMessageSize",
        max_header_size "MaxHeaderSize",
        message_expiry "MessageExpiry",
        process_emails_received_after "ProcessEmailsReceivedAfter",
        delete_emails "DeleteEmails",
        move_emails "MoveEmails",
        ehlo_name "EhloName",
        use_pipelining "UsePipelining",
        use_chunking "UseChunking",
        envelope_sender "EnvelopeSender",
        cache_capacity "CacheCapacity",
        pending_status_delay "PendingStatusDelay",
        sending_status_delay "SendingStatusDelay",
        maximum_delivery_attempts "MaximumDeliveryAttempts",
        ews_retrieve_message_count "EWSRetrieveMessageCount",
        batch_size "BatchSize",
        request_batch_size "RequestBatchSize",
    }
    lists {}
    sections {
        application Application "Application",
        proxy Proxy "Proxy",
        trusted_domains TrustedAutodiscoverDomains "TrustedAutodiscoverDomains",
        extra_ca_files ExtraCaFiles "ExtraCaFiles",
    }
    repeated {}
}

section! {
    /// The router as an application of Microsoft Entra ID: how it gets access tokens.
    Application "Application"
    values {
        tenant_id "TenantId",
        client_id "ClientId",
        client_secret "ClientSecret",
        certificate_file "CertificateFile",
        private_key_file "PrivateKeyFile",
        authority "Authority",
        scope "Scope",
    }
    lists {}
    sections {}
    repeated {}
}

section! {
    /// The proxy for https and http.
    Proxy "Proxy"
    values {
        url "Url",
        user_name "UserName",
        password "Password",
    }
    lists {}
    sections {}
    repeated {}
}

section! {
    /// Domains to which Autodiscover may lead.
    TrustedAutodiscoverDomains "TrustedAutodiscoverDomains"
    values {}
    lists { domains "Domain" }
    sections {}
    repeated {}
}

section! {
    /// Certificate authorities trusted beside the system's own.
    ExtraCaFiles "ExtraCaFiles"
    values {}
    lists { files "File" }
    sections {}
    repeated {}
}

section! {
    /// The CRM organizations.
    Deployments "Deployments"
    values {}
    lists {}
    sections {}
    repeated { deployments Deployment "Deployment" }
}

section! {
    /// One CRM organization.
    Deployment "Deployment"
    values {
        name "Name",
        deployment_type "Type",
        url "Url",
        path "Path",
        organization_name "OrganizationName",
        access_credentials "AccessCredentials",
        user_name "UserName",
        password "Password",
        allow_http "AllowHttp",
        authentication_type "AuthenticationType",
        cloud "Cloud",
        kerberos_principal "KerberosPrincipal",
        keytab_file "KeytabFile",
        email_processing "EmailProcessing",
        crm_endpoint "CrmEndpoint",
        api_version "ApiVersion",
        note_column "NoteColumn",
        mirror_file "MirrorFile",
        mirror_period "MirrorPeriod",
        emails_remembered "EmailsRemembered",
        connection_timeout "ConnectionTimeout",
        operation_timeout "OperationTimeout",
        max_connections "MaxConnections",
        load_mailboxes "LoadMailboxes",
        default_incoming_profile "DefaultIncomingProfile",
        default_outgoing_profile "DefaultOutgoingProfile",
    }
    lists {}
    sections {
        application Application "Application",
        proxy Proxy "Proxy",
        extra_ca_files ExtraCaFiles "ExtraCaFiles",
        organization_settings OrganizationSettings "OrganizationSettings",
    }
    repeated {}
}

section! {
    /// Settings of the router that an organization on a server does not keep.
    OrganizationSettings "OrganizationSettings"
    values {}
    lists { settings "Setting" }
    sections {}
    repeated {}
}

section! {
    /// Users, queues and forward mailboxes.
    Mailboxes "Mailboxes"
    values {}
    lists {}
    sections {}
    repeated {
        users Mailbox "User",
        queues Mailbox "Queue",
        forward_mailboxes Mailbox "ForwardMailbox",
    }
}

section! {
    /// One user, queue or forward mailbox.
    Mailbox "Mailbox"
    values {
        name "Name",
        email_address "EmailAddress",
        deployment "Deployment",
        incoming_profile "IncomingProfile",
        outgoing_profile "OutgoingProfile",
        disabled "Disabled",
        user_name "UserName",
        password "Password",
        path "Path",
        outgoing_path "OutgoingPath",
        delete_messages_after_processing "DeleteMessagesAfterProcessing",
        process_emails_received_after "ProcessEmailsReceivedAfter",
        loaded_record "LoadedRecord",
    }
    lists {}
    sections {}
    repeated {}
}

section! {
    /// Settings of this router that the original does not have.
    Router "Router"
    values {
        state_file "StateFile",
        secret_key_file "SecretKeyFile",
        reference_key_file "ReferenceKeyFile",
        status_listener "StatusListener",
        allow_network_listener "AllowNetworkListener",
        allow_mixed_servers "AllowMixedServers",
        allow_embedded_beside_others "AllowEmbeddedBesideOthers",
        override_policy "OverridePolicy",
        in_doubt_policy "InDoubtPolicy",
        maximum_message_attempts "MaximumMessageAttempts",
        max_mime_depth "MaxMimeDepth",
        max_mime_parts "MaxMimeParts",
        shutdown_timeout "ShutdownTimeout",
        decision_history "DecisionHistory",
        decision_retention "DecisionRetention",
        decisions_kept "DecisionsKept",
    }
    lists {}
    sections {}
    repeated {}
}

impl Configuration {
    /// The file as text, indented, for a file that does not exist yet. An existing file is changed with
    /// [`Document`](crate::Document), which keeps what it does not know.
    ///
    /// # Errors
    /// The writer's message; there is no known input that causes one.
    pub fn to_text(&self) -> Result<String, String> {
        let config = yaserde::ser::Config { perform_indent: true, ..yaserde::ser::Config::default() };
        yaserde::ser::to_string_with_config(self, &config).map_err(|e| e.to_string()).map(|mut text| {
            text.push('\n');
            text
        })
    }
}
