//! What can be typed. What it means is in `commands`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use email_router::model::{Direction, EmailAddress};

/// Moves e-mail both ways between mail systems and a CRM, and can say why.
///
/// New here? `email-router quickstart` routes sample messages and shows what happened to each.
/// Then write a configuration (crates/config/FORMAT.md has every element), and:
///
///   email-router check            is the file right?
///   email-router load-data        who is to be served, and what keeps somebody from it?
///   email-router-test-access      can every mailbox be read, and sent from?
///   email-router run --once       read every mailbox once, send what is pending
///   email-router run              the service
///
/// Exit codes: 0 done; 1 failed; 2 the command line is wrong; 3 the configuration has errors;
/// 4 done, but something needs a person (a mailbox failed, a message is in quarantine, a
/// finding is a warning under --strict).
#[derive(Debug, Parser)]
#[command(name = "email-router", version, max_term_width = 110, verbatim_doc_comment)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The configuration file.
    #[arg(long, short, global = true, env = "EMAIL_ROUTER_CONFIG", default_value = "EmailAgent.xml", value_hint = ValueHint::FilePath)]
    pub(crate) config: PathBuf,
    /// Print JSON for programs instead of text for people.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to log, over LogLevel of the configuration: error, warn, info, debug, trace, or a filter such as `email_router_engine=debug`.
    #[arg(long, global = true, env = "EMAIL_ROUTER_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// How log lines are written.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the router: read mailboxes, deliver to the CRM, send the CRM's mail. Stops cleanly on SIGTERM, SIGINT or Ctrl-C.
    Run(RunArgs),
    /// Check the configuration; every finding has file, line and column.
    Check {
        /// Treat warnings like errors.
        #[arg(long)]
        strict: bool,
    },
    /// Check a new configuration and put it in the place of the running one, atomically; the old one is kept beside it as NAME.previous.
    Publish {
        /// The new configuration; `-` reads it from the standard input.
        #[arg(value_hint = ValueHint::FilePath)]
        new: PathBuf,
    },
    /// Say what would happen to a message and why, step by step. Writes nothing.
    Explain {
        /// A message (.eml).
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// As if it was found in this mailbox (address, name or id); else the first configured mailbox that is among its recipients, else the
        /// first of all.
        #[arg(long, short)]
        mailbox: Option<String>,
    },
    /// Say what was decided about a message that came, and why, as it was noted then.
    Why {
        /// Its Message-ID, with or without angle brackets, or the id of the activity.
        id: String,
    },
    /// Decide anew about past messages, under the settings as they are and under changed ones, and show where the two differ.
    /// Writes nothing.
    Replay(ReplayArgs),
    /// How each mailbox is doing: last success, last error, what waits, next poll.
    Status,
    /// Load the users and queues of the CRM: how each is served, why one is not, what changed since the last load.
    LoadData(LoadDataArgs),
    /// What is kept of organizations on servers, so that deciding about a message costs no request: addresses, e-mails, notes.
    Mirror {
        /// Which deployment; without it each that is on a server.
        #[arg(long, global = true)]
        deployment: Option<String>,
        #[command(subcommand)]
        action: MirrorAction,
    },
    /// Messages that could not be routed.
    Quarantine {
        #[command(subcommand)]
        action: QuarantineAction,
    },
    /// Encrypt passwords for the configuration.
    Secret {
        #[command(subcommand)]
        action: SecretAction,
    },
    /// Passwords of users and queues that have none in the configuration, such as those loaded from the CRM; kept encrypted beside it.
    Credential {
        #[command(subcommand)]
        action: CredentialAction,
    },
    /// Look at and fill the embedded CRM.
    Crm {
        /// Which deployment, when the configuration has several.
        #[arg(long, global = true)]
        deployment: Option<String>,
        #[command(subcommand)]
        action: CrmAction,
    },
    /// Bring past mail into the CRM from a Maildir, an mbox file, an .eml file or a folder of .eml files. Can be interrupted and resumed.
    Import(ImportArgs),
    /// Bring the threshold dates of the original router's SystemState.xml into the state of this one.
    ImportState {
        /// Microsoft.Crm.Tools.EmailAgent.SystemState.xml; a damaged one gives what can be saved.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Only show what would be brought in.
        #[arg(long)]
        dry_run: bool,
    },
    /// Route the sample mail of the project in a folder of its own, and show what happened to each message.
    Quickstart {
        /// Where the samples are.
        #[arg(long, default_value = "fixtures/quickstart", value_hint = ValueHint::DirPath)]
        from: PathBuf,
        /// Where to work; the CRM file stays there to look at. Run again, nothing is routed twice.
        #[arg(long, default_value = "quickstart-output", value_hint = ValueHint::DirPath)]
        into: PathBuf,
    },
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Read every mailbox once, send what is pending, then end.
    #[arg(long)]
    pub(crate) once: bool,
    /// Print each message as it is decided.
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Serve /metrics, /healthz and /status here; over StatusListener of the configuration. An address that is not loopback is refused unless
    /// --listen-anywhere says so too. The service only: nothing is served with --once.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "once")]
    pub(crate) listen: Option<SocketAddr>,
    /// Allow --listen on an address that others can reach. There is no password on it.
    #[arg(long, requires = "listen")]
    pub(crate) listen_anywhere: bool,
}

/// Arguments of `load-data`.
#[derive(Debug, Args)]
pub(crate) struct LoadDataArgs {
    /// Only those with one of these texts in name or address.
    pub(crate) filter: Vec<String>,
    /// Only this deployment; without it all are loaded, and one that fails keeps no other from it.
    #[arg(long)]
    pub(crate) deployment: Option<String>,
    /// Only users, queues or forward mailboxes.
    #[arg(long, value_enum)]
    pub(crate) kind: Option<ShownKind>,
    /// Show those too that the CRM does not mean for the router: disabled, served by Outlook or by nobody.
    #[arg(long)]
    pub(crate) all: bool,
    /// Show only what is new or changed since the last load.
    #[arg(long)]
    pub(crate) changed: bool,
    /// Write their mailboxes into the configuration, atomically: new ones are added, those it wrote earlier follow the CRM or go with their record.
    /// What a person wrote is never touched. Filters do not count for this.
    #[arg(long)]
    pub(crate) publish: bool,
}

/// Which of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShownKind {
    /// Users.
    User,
    /// Queues.
    Queue,
    /// Forward mailboxes.
    Forward,
}

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// A Maildir, an mbox file, an .eml file, or a folder of .eml files; without one, the messages whose decisions the state keeps.
    #[arg(value_hint = ValueHint::AnyPath, requires = "mailbox")]
    pub(crate) source: Option<PathBuf>,
    /// The mailbox in which the messages of the source are judged (address, name or id).
    #[arg(long, short, requires = "source")]
    pub(crate) mailbox: Option<String>,
    /// A setting of the organization to try; `email-router crm settings` lists them.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
    /// The filter of a user or queue to try: 0 all, 1 in response to CRM e-mail, 2 leads, contacts and accounts, 3 e-mail-enabled
    /// records, 4 none.
    #[arg(long, value_name = "ADDRESS=0..4")]
    pub(crate) filter: Vec<String>,
    /// Decisions of the state since this time, such as 2026-11-01T00:00:00Z; without it all that are kept.
    #[arg(long, value_name = "TIME", conflicts_with = "source")]
    pub(crate) since: Option<String>,
    /// At most this many messages, the newest ones.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) limit: usize,
    /// Show both decisions whole.
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

/// Actions of `quarantine`.
#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineAction {
    /// What is there.
    List,
    /// One item: why it is there, its header; `--raw` prints the message as it came.
    Show {
        /// Number of the item.
        id: u64,
        /// Print the message itself, byte for byte.
        #[arg(long)]
        raw: bool,
    },
    /// Route items again by the rules; what is settled leaves the quarantine. A message whose bytes were never read is
    /// read anew by the next pass over its mailbox.
    Retry {
        #[command(flatten)]
        which: Which,
    },
    /// Deliver items to the owner of their mailbox whatever the filters say.
    Release {
        #[command(flatten)]
        which: Which,
    },
    /// Remove items for good.
    Delete {
        #[command(flatten)]
        which: Which,
    },
}

/// Which items.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// Numbers of items.
    pub(crate) ids: Vec<u64>,
    /// All items.
    #[arg(long)]
    pub(crate) all: bool,
    /// All items of this class (`quarantine list` shows it).
    #[arg(long)]
    pub(crate) class: Option<String>,
}

/// Actions of `mirror`. Each first reads what changed in the organization, as the router does, and may run beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(crate) enum MirrorAction {
    /// How much it holds.
    Size,
    /// Compare it with the organization and name what differs (exit code 4): a request for each 5,000 records.
    Verify,
    /// Read all of it anew. Until that is done the old rows answer, for a router that runs too.
    Rebuild,
}

/// Actions of `secret`.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretAction {
    /// Encrypt a password, asked for at the terminal or read from the standard input, and print the text to put into the configuration; makes the key file when there is none.
    Set,
    /// Make a new key and encrypt every password of the configuration anew.
    Rotate,
}

/// Actions of `credential`.
#[derive(Debug, Subcommand)]
pub(crate) enum CredentialAction {
    /// Store a password, asked for at the terminal or read from the standard input; makes the key file when there is none. A running router takes it within ConfigRefreshPeriod.
    Set {
        /// The user or queue, by its address.
        address: EmailAddress,
        #[command(flatten)]
        way: WhichWay,
        /// The name to log in with, where it is not the mailbox's own.
        #[arg(long)]
        user_name: Option<String>,
    },
    /// Whose passwords are there, and which cannot be used and why; never a password.
    List,
    /// Remove what is stored for an address.
    Remove {
        /// The user or queue, by its address.
        address: EmailAddress,
        #[command(flatten)]
        way: WhichWay,
    },
}

/// For which mail; neither: both.
#[derive(Debug, Args)]
pub(crate) struct WhichWay {
    /// For reading mail alone.
    #[arg(long, conflicts_with = "outgoing")]
    incoming: bool,
    /// For sending mail alone.
    #[arg(long)]
    outgoing: bool,
}

impl WhichWay {
    pub(crate) fn direction(&self) -> Option<Direction> {
        match (self.incoming, self.outgoing) {
            (true, _) => Some(Direction::Incoming),
            (_, true) => Some(Direction::Outgoing),
            _ => None,
        }
    }
}

/// Actions of `crm`.
#[derive(Debug, Subcommand)]
pub(crate) enum CrmAction {
    /// Records of a table, or e-mails.
    List {
        /// Which table; `email` for e-mails, `queueitem` for queue items.
        table: String,
        /// At most this many.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// E-mails only: in this status (Draft, Sent, Received, PendingSend, Sending, Failed, ...).
        #[arg(long)]
        status: Option<String>,
    },
    /// One record, or one e-mail with parties and attachments.
    Show {
        /// Which table, `email` for an e-mail.
        table: String,
        /// Its id, or an address, or a unique beginning of the id.
        id: String,
    },
    /// Add a record: COLUMN=VALUE ...
    Add {
        /// Which table.
        table: String,
        /// Values, such as fullname="Ann Lee" internalemailaddress=ann@example.com.
        #[arg(required = true)]
        values: Vec<String>,
    },
    /// Change a record: COLUMN=VALUE ...
    Set {
        /// Which table.
        table: String,
        /// Its id or address.
        id: String,
        /// Values.
        #[arg(required = true)]
        values: Vec<String>,
    },
    /// Delete a record or an e-mail. A deleted e-mail does not come back when its message is read again.
    Delete {
        /// Which table, `email` for an e-mail.
        table: String,
        /// Its id or address.
        id: String,
    },
    /// Add records from a CSV file whose first line names the columns.
    Import {
        /// Which table.
        table: String,
        /// The file.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Only check.
        #[arg(long)]
        dry_run: bool,
    },
    /// Settings of the organization: all, one, or NAME=VALUE to change; `crates/crm/SETTINGS.md` says what each is for.
    Settings {
        /// NAME to show one, NAME=VALUE to change.
        settings: Vec<String>,
    },
    /// Write an e-mail that the router will send.
    Send(SendArgs),
    /// Decide about an e-mail in doubt, of which nobody knows whether it went out: `sent`, `again` or `failed`. One that failed can be sent
    /// `again`, attempts counted from the start. Others are the router's to decide.
    Resolve {
        /// Its id.
        id: String,
        /// What to do.
        #[arg(value_enum)]
        what: ResolveAs,
    },
    /// Say which record an address is that no record had when an e-mail came; with the setting
    /// resolvesimilarunresolvedemailaddress also in all other e-mails.
    ResolveParty {
        /// The e-mail: its id, or a unique beginning of it.
        email: String,
        /// The address, as `crm show email` shows it.
        address: String,
        /// The record, by id or address, such as contact=ann@example.com.
        #[arg(value_name = "TABLE=ID")]
        record: String,
    },
    /// How many records and e-mails there are.
    Stats,
}

/// What to do with an e-mail that is in doubt or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResolveAs {
    /// It went out.
    Sent,
    /// It did not: send it again, under the same Message-ID.
    Again,
    /// It did not: give it up.
    Failed,
}

/// Arguments of `crm send`.
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// Address of the user or queue that sends.
    #[arg(long)]
    pub(crate) from: String,
    /// Recipients.
    #[arg(long, required = true)]
    pub(crate) to: Vec<String>,
    /// Copies.
    #[arg(long)]
    pub(crate) cc: Vec<String>,
    /// Hidden copies.
    #[arg(long)]
    pub(crate) bcc: Vec<String>,
    /// Subject.
    #[arg(long, default_value = "")]
    pub(crate) subject: String,
    /// Text of the mail; `-` reads it from the standard input.
    #[arg(long, default_value = "")]
    pub(crate) body: String,
    /// The text is HTML.
    #[arg(long)]
    pub(crate) html: bool,
    /// Files to attach.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub(crate) attach: Vec<PathBuf>,
    /// The e-mail this answers.
    #[arg(long, value_name = "ID")]
    pub(crate) in_reply_to: Option<String>,
    /// The record it is about, by id or address; without it, what the e-mail it answers is about.
    #[arg(long, value_name = "TABLE=ID")]
    pub(crate) regarding: Option<String>,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A Maildir, an mbox file, an .eml file, or a folder of .eml files.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) source: PathBuf,
    /// The mailbox the messages belong to (address, name or id).
    #[arg(long, short)]
    pub(crate) mailbox: String,
    /// Decide and show, write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Begin anew although an earlier import of this source was interrupted.
    #[arg(long)]
    pub(crate) from_start: bool,
    /// Print each message.
    #[arg(long, short)]
    pub(crate) verbose: bool,
}
