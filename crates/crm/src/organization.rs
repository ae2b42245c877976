//! Settings of an organization and what belongs to users and queues. Names and defaults: Dataverse's `organization` table and
//! `orgdborgsettings` (`crm-contract.md` 5.6 and 16). `SETTINGS.md` beside this crate's manifest lists them for administrators.

use serde::{Deserialize, Serialize};

/// The settings of an organization that bear on e-mail. Each field is serialized under its Dataverse name; a missing one takes
/// the documented default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct OrganizationSettings {
    /// `name`: what the organization is called.
    pub name: String,
    /// Correlation by In-Reply-To and the conversation index (and our References). [`Self::use_in_reply_to`],
    /// [`Self::use_references`] and [`Self::use_conversation_index`] switch each of them off alone.
    #[serde(rename = "emailcorrelationenabled")]
    pub email_correlation_enabled: bool,
    /// Correlation by tracking token, and tokens on outgoing subjects. Ours: Dataverse's attribute for it is not public.
    #[serde(rename = "usetrackingtoken")]
    pub use_tracking_token: bool,
    /// Smart matching.
    #[serde(rename = "enablesmartmatching")]
    pub enable_smart_matching: bool,
    /// Prefix of the tracking token, 1 to 20 characters.
    #[serde(rename = "trackingprefix")]
    pub tracking_prefix: String,
    /// Prefixes used in the past, newest first; tokens with them are still found.
    #[serde(rename = "trackingprefixhistory")]
    pub tracking_prefix_history: Vec<String>,
    /// Base of the user number in a token, 0 to 2,147,483,647.
    #[serde(rename = "trackingtokenidbase")]
    pub tracking_token_id_base: u32,
    /// Digits of the user number, 1 to 10.
    #[serde(rename = "trackingtokeniddigits")]
    pub tracking_token_id_digits: u8,
    /// Largest message counter; its number of digits is the counter's width; the counter wraps to 0 after it.
    #[serde(rename = "maximumtrackingnumber")]
    pub maximum_tracking_number: u32,
    /// Smart matching: what is removed from a subject before it is split into words.
    #[serde(rename = "hashfilterkeywords")]
    pub hash_filter_keywords: String,
    /// Smart matching: at most this many words, and this many addresses.
    #[serde(rename = "hashmaxcount")]
    pub hash_max_count: u32,
    /// Smart matching: how many words may differ.
    #[serde(rename = "hashdeltasubjectcount")]
    pub hash_delta_subject_count: u32,
    /// Smart matching: how many addresses must be common.
    #[serde(rename = "hashminaddresscount")]
    pub hash_min_address_count: u32,
    /// `true`: mail between users is not tracked twice.
    #[serde(rename = "ignoreinternalemail")]
    pub ignore_internal_email: bool,
    /// Only approved user addresses are processed.
    #[serde(rename = "requireapprovalforuseremail")]
    pub require_approval_for_user_email: bool,
    /// Only approved queue addresses are processed.
    #[serde(rename = "requireapprovalforqueueemail")]
    pub require_approval_for_queue_email: bool,
    /// A mail may be sent to an address that no record has.
    #[serde(rename = "allowunresolvedpartiesonemailsend")]
    pub allow_unresolved_parties_on_email_send: bool,
    /// A recipient address that several records have becomes one unresolved party.
    #[serde(rename = "unresolveemailaddressifmultiplematch")]
    pub unresolve_email_address_if_multiple_match: bool,
    /// Message classes of Exchange that are mail for the CRM; those of other mail systems have none. Ours; the default is what the original tracked.
    #[serde(rename = "trackedmessageclasses")]
    pub tracked_message_classes: Vec<String>,
    /// Largest attachment, bytes.
    #[serde(rename = "maxuploadfilesize")]
    pub max_upload_file_size: u64,
    /// Extensions that are not stored as attachments, lower case, without a dot.
    #[serde(rename = "blockedattachments")]
    pub blocked_attachments: Vec<String>,
    /// Longest subject on the mail server in UTF-16 units, 255 to 400.
    #[serde(rename = "MaximumSubjectLengthOnMailServer")]
    pub maximum_subject_length_on_mail_server: u32,
    /// Drops In-Reply-To and the conversation index from correlation.
    #[serde(rename = "IgnoreConversationIndexAndInReplyToForCorrelation")]
    pub ignore_conversation_index_and_in_reply_to_for_correlation: bool,
    /// A header hit must be a reply, not a forward.
    #[serde(rename = "DoNotCorrelateForwardedEmailsAsReplies")]
    pub do_not_correlate_forwarded_emails_as_replies: bool,
    /// Only the filter of the mailbox being read decides.
    #[serde(rename = "UseFilteringMethodOfSyncingMailboxOnlyForCorrelation")]
    pub use_filtering_method_of_syncing_mailbox_only: bool,
    /// -1, or the filtering method (0 to 4) forced on all user mailboxes.
    #[serde(rename = "SSSForceFilteringMethodForUserMailboxes")]
    pub force_filtering_method_for_user_mailboxes: i8,
    /// With [`Self::ignore_internal_email`]: mail between users is refused only where the sent copy is in the CRM.
    #[serde(rename = "IgnoreInternalEmailDetectionEnhancement")]
    pub ignore_internal_email_detection_enhancement: bool,
    /// With [`Self::ignore_internal_email`]: mail between users that goes to a queue too is not refused.
    #[serde(rename = "DoNotIgnoreInternalEmailToQueues")]
    pub do_not_ignore_internal_email_to_queues: bool,
    /// With [`Self::ignore_internal_email`]: mail from a queue is refused where the sent copy is in the CRM.
    #[serde(rename = "IgnoreInternalEmailFromQueues")]
    pub ignore_internal_email_from_queues: bool,
    /// No hashes for smart matching are made.
    #[serde(rename = "DisableSmartMatchingEmailHashCreation")]
    pub disable_smart_matching_email_hash_creation: bool,
    /// A message is not tracked when several records have its sender's address.
    #[serde(rename = "OverrideV5SenderConflictResolution")]
    pub override_v5_sender_conflict_resolution: bool,
    /// Nothing is tracked automatically for users; queues are served as always.
    #[serde(rename = "DoNotAutoTrackEmail")]
    pub do_not_auto_track_email: bool,
    /// Messages under information rights management are not tracked.
    #[serde(rename = "RestrictIRMEmailItems")]
    pub restrict_irm_email_items: bool,
    /// A contact is created for an unknown sender whose message a person releases from quarantine (tracking by hand).
    #[serde(rename = "AutoCreateContactOnPromote")]
    pub auto_create_contact_on_promote: bool,
    /// Resolving the unresolved party of one e-mail resolves the same address in all others.
    #[serde(rename = "resolvesimilarunresolvedemailaddress")]
    pub resolve_similar_unresolved_email_address: bool,
    /// A sender that several records have stays unresolved.
    #[serde(rename = "UnresolveSenderInCaseOfMultipleMatch")]
    pub unresolve_sender_in_case_of_multiple_match: bool,
    /// Addresses of inactive records count too.
    #[serde(rename = "ResolveForInactiveEntities")]
    pub resolve_for_inactive_entities: bool,
    /// A queue item in the default queue of the user who owns the e-mail. In Dataverse this belongs to the table `email`, and the platform
    /// makes the item by itself.
    #[serde(rename = "AutoRouteToOwnerQueue")]
    pub auto_route_to_owner_queue: bool,
    /// A queue item for each queue among the recipients.
    #[serde(rename = "CreateQueueItemsForAcceptingQueueRecipients")]
    pub create_queue_items_for_accepting_queue_recipients: bool,
    /// A queue item for the queue whose mailbox was read, even when it is not among the recipients.
    #[serde(rename = "CreateQueueItemForSynchronizingMailbox")]
    pub create_queue_item_for_synchronizing_mailbox: bool,
    /// A queue item for a second queue that got the same message.
    #[serde(rename = "SSSCreateAdditionalQueueItemsForAlreadyTrackedEmail")]
    pub create_additional_queue_items_for_already_tracked_email: bool,
    /// Ours: a reply from an unknown sender passes the filters 2 and 3 (`crm-contract.md` 7.2, not stated by Microsoft).
    #[serde(rename = "answerspassfilters")]
    pub answers_pass_filters: bool,
    /// Ours: correlate by References after In-Reply-To.
    #[serde(rename = "usereferences")]
    pub use_references: bool,
    /// Ours: a token hit counts although neither sender nor recipient is a party of the e-mail that has the token.
    #[serde(rename = "allowweaktoken")]
    pub allow_weak_token: bool,
    /// Ours: the mailbox that was read counts as a recipient when its address is not in To or Cc (list, Bcc). Without it only a
    /// mailbox whose filter is All accepts such mail, as Microsoft has it.
    #[serde(rename = "acceptbymailbox")]
    pub accept_by_mailbox: bool,
    /// Ours: correlate by In-Reply-To.
    #[serde(rename = "useinreplyto")]
    pub use_in_reply_to: bool,
    /// Ours: correlate by the conversation index, or by the conversation id where the mail system gives one.
    #[serde(rename = "useconversationindex")]
    pub use_conversation_index: bool,
    /// Ours: smart matching looks at e-mails of the last so many days, 1 to 3,650. Microsoft: 90 under high load.
    #[serde(rename = "smartmatchingwindowdays")]
    pub smart_matching_window_days: u32,
    /// Ours: a subject that says little, such as `Question`, is not matched. It says enough with three words; or with two words of
    /// which one has six letters or a number in it, where all words must agree (`hashdeltasubjectcount` 0); or with a number of six
    /// characters.
    #[serde(rename = "smartmatchingcommonsubjectguard")]
    pub smart_matching_common_subject_guard: bool,
    /// Ours: words of a subject are what stands between white space, for those who need Microsoft's results as far as they are
    /// known; else letters and digits in any script count.
    #[serde(rename = "smartmatchingwhitespacewords")]
    pub smart_matching_whitespace_words: bool,
    /// Ours: what a hit by Message-ID may do when the id claims to be one this router made for this organization, and its
    /// signature is wrong.
    #[serde(rename = "forgedreference")]
    pub forged_reference: HitPolicy,
    /// Ours: what a hit by any method may do when a trusted mail server says that the sender is not who he says he is (RFC 8601:
    /// DMARC failed, or neither SPF nor DKIM passed for the sender's domain). Without [`Self::trusted_authserv_ids`] nobody says so.
    #[serde(rename = "unauthenticatedsender")]
    pub unauthenticated_sender: HitPolicy,
    /// Ours: the names (authserv-id) of mail servers whose Authentication-Results fields are believed.
    #[serde(rename = "trustedauthservids")]
    pub trusted_authserv_ids: Vec<String>,
    /// Ours: what becomes of automatic mail: out of office, notifications, lists.
    #[serde(rename = "automaticmail")]
    pub automatic_mail: AutomaticMail,
    /// Ours: what becomes of delivery reports after the e-mail they speak of was updated.
    #[serde(rename = "deliveryreports")]
    pub delivery_reports: AutomaticMail,
    /// Ours: a record is created for an unknown sender whose message is accepted.
    #[serde(rename = "createunknownsender")]
    pub create_unknown_sender: UnknownSender,
    /// Ours: `ann+offers@example.com`, where no record has it, is looked for as `ann@example.com`.
    #[serde(rename = "plusaddressing")]
    pub plus_addressing: bool,
    /// Ours: the sliding window of the loop limits, minutes, 1 to 1,440.
    #[serde(rename = "loopwindowminutes")]
    pub loop_window_minutes: u32,
    /// Ours: at most so many messages of one sender become activities in the window; the others wait. 0: no limit.
    #[serde(rename = "looplimitpersender")]
    pub loop_limit_per_sender: u32,
    /// Ours: the same for one sender and one mailbox.
    #[serde(rename = "looplimitperpair")]
    pub loop_limit_per_pair: u32,
    /// Ours: the same for one sender and one record that messages are about (or one conversation).
    #[serde(rename = "looplimitperrecord")]
    pub loop_limit_per_record: u32,
}

/// What Dataverse sets `hashfilterkeywords` to: any run of `word:` at the start.
pub const DEFAULT_HASH_FILTER_KEYWORDS: &str = r"^[\s]*([\w]+\s?:[\s]*)+";

/// What a hit may do that something speaks against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HitPolicy {
    /// It counts; the decision record says what speaks against it.
    #[default]
    Accept,
    /// The e-mail is named as the correlated one, but nothing is taken from it (regarding, parent, owner), and no filter accepts
    /// because of it.
    Weak,
    /// It does not count; the next method is tried.
    Refuse,
}

/// What becomes of automatic mail that the filters accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AutomaticMail {
    /// As any other mail.
    Track,
    /// As any other mail, but smart matching does not look at it.
    #[default]
    TrackWithoutSmartMatching,
    /// It is not tracked; mail through a mailing list is all the same, since a person may have written it.
    Discard,
}

/// What is created for a sender whom no record knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownSender {
    /// Nothing: the sender stays an unresolved party.
    #[default]
    None,
    /// A contact.
    Contact,
    /// A lead.
    Lead,
}

impl UnknownSender {
    /// The table of the record.
    #[must_use]
    pub const fn table(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Contact => Some("contact"),
            Self::Lead => Some("lead"),
        }
    }
}

impl Default for OrganizationSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            email_correlation_enabled: true,
            use_tracking_token: true,
            enable_smart_matching: false,
            tracking_prefix: "CRM:".to_owned(),
            tracking_prefix_history: Vec::new(),
            tracking_token_id_base: 0,
            tracking_token_id_digits: 3,
            maximum_tracking_number: 999,
            hash_filter_keywords: DEFAULT_HASH_FILTER_KEYWORDS.to_owned(),
            hash_max_count: 20,
            hash_delta_subject_count: 0,
            hash_min_address_count: 2,
            ignore_internal_email: false,
            require_approval_for_user_email: false,
            require_approval_for_queue_email: false,
            allow_unresolved_parties_on_email_send: false,
            unresolve_email_address_if_multiple_match: false,
            max_upload_file_size: 5_242_880,
            // behaviour document, section 1
            tracked_message_classes: vec![
                "IPM.Note".to_owned(),
                "IPM.Note.Rules.OofTemplate.Microsoft".to_owned(),
            ],
            blocked_attachments: DEFAULT_BLOCKED.split(';').map(str::to_owned).collect(),
            maximum_subject_length_on_mail_server: 255,
            ignore_conversation_index_and_in_reply_to_for_correlation: false,
            do_not_correlate_forwarded_emails_as_replies: false,
            use_filtering_method_of_syncing_mailbox_only: false,
            force_filtering_method_for_user_mailboxes: -1,
            unresolve_sender_in_case_of_multiple_match: false,
            resolve_for_inactive_entities: false,
            auto_route_to_owner_queue: false,
            create_queue_items_for_accepting_queue_recipients: true,
            create_queue_item_for_synchronizing_mailbox: true,
            create_additional_queue_items_for_already_tracked_email: false,
            answers_pass_filters: true,
            use_references: true,
            allow_weak_token: true,
            accept_by_mailbox: false,
            ignore_internal_email_detection_enhancement: true,
            do_not_ignore_internal_email_to_queues: true,
            ignore_internal_email_from_queues: false,
            disable_smart_matching_email_hash_creation: false,
            override_v5_sender_conflict_resolution: false,
            do_not_auto_track_email: false,
            restrict_irm_email_items: false,
            auto_create_contact_on_promote: true,
            resolve_similar_unresolved_email_address: false,
            use_in_reply_to: true,
            use_conversation_index: true,
            smart_matching_window_days: 90,
            smart_matching_common_subject_guard: true,
            smart_matching_whitespace_words: false,
            forged_reference: HitPolicy::Accept,
            unauthenticated_sender: HitPolicy::Accept,
            trusted_authserv_ids: Vec::new(),
            automatic_mail: AutomaticMail::TrackWithoutSmartMatching,
            delivery_reports: AutomaticMail::TrackWithoutSmartMatching,
            create_unknown_sender: UnknownSender::None,
            plus_addressing: false,
            loop_window_minutes: 60,
            // a web shop's form sends every order from one address, so only a conversation is narrow
            loop_limit_per_sender: 1000,
            loop_limit_per_pair: 500,
            loop_limit_per_record: 100,
        }
    }
}

/// Program and script types that Windows runs on a double click; the organization can change the list.
const DEFAULT_BLOCKED: &str = "ade;adp;app;asa;ashx;asmx;asp;bas;bat;cdx;cer;chm;class;cmd;com;config;cpl;crt;csh;dll;exe;fxp;hlp;hta;htr;htw;ida;idc;idq;\
inf;ins;isp;its;jar;js;jse;ksh;lnk;mad;maf;mag;mam;maq;mar;mas;mat;mau;mav;maw;mda;mdb;mde;mdt;mdw;mdz;msc;msh;msh1;msh1xml;msh2;msh2xml;mshxml;msi;msp;mst;\
ops;pcd;pif;prf;prg;printer;pst;reg;rem;scf;scr;sct;shb;shs;shtm;shtml;soap;stm;tmp;url;vb;vbe;vbs;vsmacros;vss;vst;vsw;ws;wsc;wsf;wsh";

/// Which mail of a user or queue becomes an activity; Dataverse's `incomingemailfilteringmethod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilteringMethod {
    /// 0: all mail.
    All,
    /// 1: mail that answers an e-mail of the CRM; the default.
    #[default]
    InResponseToCrmEmail,
    /// 2: mail from leads, contacts and accounts.
    FromLeadsContactsAccounts,
    /// 3: mail from any record with an e-mail address.
    FromEmailEnabledRecords,
    /// 4: none.
    None,
}

impl FilteringMethod {
    /// Dataverse's number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::All => 0,
            Self::InResponseToCrmEmail => 1,
            Self::FromLeadsContactsAccounts => 2,
            Self::FromEmailEnabledRecords => 3,
            Self::None => 4,
        }
    }

    /// The method with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::All,
            1 => Self::InResponseToCrmEmail,
            2 => Self::FromLeadsContactsAccounts,
            3 => Self::FromEmailEnabledRecords,
            4 => Self::None,
            _ => return None,
        })
    }
}

/// Whether an administrator approved an address; Dataverse's `emailrouteraccessapproval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// 0: nobody asked.
    #[default]
    Empty,
    /// 1: approved.
    Approved,
    /// 2: waiting.
    PendingApproval,
    /// 3: rejected.
    Rejected,
}

impl Approval {
    /// Dataverse's number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Approved => 1,
            Self::PendingApproval => 2,
            Self::Rejected => 3,
        }
    }

    /// The approval with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Empty,
            1 => Self::Approved,
            2 => Self::PendingApproval,
            3 => Self::Rejected,
            _ => return None,
        })
    }
}
