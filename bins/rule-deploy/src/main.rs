//! `email-router-rule-deploy`: inbox rules that forward to the forward mailbox, for chosen users and queues.

mod print;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum, ValueHint};
use email_router::rules::{RuleRequest, deploy_rules, rule_targets};
use email_router::transport::rules::{ForwardRule, RULE_MARKER, RuleCondition, Wanted};

/// Puts a server-side inbox rule into mailboxes of Exchange: forward a copy of what arrives, as an
/// attachment, to the forward mailbox.
///
/// It recognises its own rules by their name, which ends with [email-router], and touches no other.
/// Run it again at any time: what is as wanted stays as it is. Nothing is changed without --yes.
///
/// Exit codes: 0 every mailbox is as wanted; 1 it could not be run; 2 the command line is wrong;
/// 3 the configuration has errors; 4 at least one mailbox is not as wanted, or failed.
#[derive(Debug, Parser)]
#[command(name = "email-router-rule-deploy", version, max_term_width = 110, verbatim_doc_comment)]
struct Cli {
    /// The configuration file.
    #[arg(long, short, global = true, env = "EMAIL_ROUTER_CONFIG", default_value = "EmailAgent.xml", value_hint = ValueHint::FilePath)]
    config: PathBuf,
    /// The forward mailbox: address, name or id. The only one of the configuration by default.
    #[arg(long, global = true)]
    forward_mailbox: Option<String>,
    /// The Exchange profile by which the mailboxes are reached. That of the forward mailbox by default.
    #[arg(long, global = true)]
    profile: Option<String>,
    /// Mailboxes at the same time.
    #[arg(long, global = true, default_value_t = 4)]
    at_once: usize,
    /// Print JSON for programs.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what apply would do.
    Plan(Deploy),
    /// Create or repair the rule where it is not as wanted. Without --yes this is plan.
    Apply {
        #[command(flatten)]
        deploy: Deploy,
        #[command(flatten)]
        change: Change,
    },
    /// Show who has the rule and who has not.
    Verify(Deploy),
    /// Delete the rules of this program. Without --yes it shows what would be deleted.
    Remove {
        #[command(flatten)]
        mailboxes: Mailboxes,
        #[command(flatten)]
        change: Change,
    },
}

#[derive(Debug, clap::Args)]
struct Mailboxes {
    /// These users and queues: address, name or id. By default all whose mail the CRM expects by the forward mailbox.
    mailboxes: Vec<String>,
    /// All users and queues, however their mail comes in: who has a rule that is not needed any more?
    #[arg(long, conflicts_with = "mailboxes")]
    all: bool,
}

#[derive(Debug, clap::Args)]
struct Deploy {
    #[command(flatten)]
    mailboxes: Mailboxes,
    /// When the rule applies.
    #[arg(long, value_enum, default_value = "all")]
    condition: Condition,
    /// The name of the rule; [email-router] is put behind it.
    #[arg(long, default_value = "Forward to CRM", value_parser = rule_name)]
    name: String,
}

#[derive(Debug, clap::Args)]
struct Change {
    /// Change the mailboxes.
    #[arg(long)]
    yes: bool,
    /// Also where Outlook keeps rules of its own in the mailbox, which are lost by that.
    #[arg(long)]
    remove_outlook_rules: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Condition {
    /// To all mail.
    All,
    /// Where the mailbox's own name is in To or Cc.
    ToOrCcMe,
}

/// What a command comes to.
struct Order<'a> {
    mailboxes: &'a Mailboxes,
    deploy: Option<&'a Deploy>,
    change: Option<&'a Change>,
}

impl Command {
    fn order(&self) -> Order<'_> {
        match self {
            Self::Plan(deploy) | Self::Verify(deploy) => {
                Order { mailboxes: &deploy.mailboxes, deploy: Some(deploy), change: None }
            }
            Self::Apply { deploy, change } => {
                Order { mailboxes: &deploy.mailboxes, deploy: Some(deploy), change: Some(change) }
            }
            Self::Remove { mailboxes, change } => Order { mailboxes, deploy: None, change: Some(change) },
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::ERROR)
        .init();
    match run(&cli).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(4),
        Err(error) if error.is_reader_gone() => ExitCode::SUCCESS,
        Err(error) => {
            let code = if matches!(error, email_router::Error::Configuration { .. }) { 3 } else { 1 };
            let hint = error.hint().map(|h| format!("\nwhat to do: {h}")).unwrap_or_default();
            // the last words of a program whose standard error is gone reach nobody
            let _ = writeln!(std::io::stderr(), "email-router-rule-deploy: {error}{hint}");
            ExitCode::from(code)
        }
    }
}

async fn run(cli: &Cli) -> Result<bool, email_router::Error> {
    let order = cli.command.order();
    let request = RuleRequest {
        only: &order.mailboxes.mailboxes,
        everybody: order.mailboxes.all,
        forward_mailbox: cli.forward_mailbox.as_deref(),
        profile: cli.profile.as_deref(),
    };
    let found = rule_targets(&cli.config, request).await?;
    let wanted = match order.deploy {
        None => Wanted::Removed,
        Some(deploy) => Wanted::Deployed(ForwardRule {
            name: deploy.name.clone(),
            forward_to: found.forward_to.clone(),
            condition: match deploy.condition {
                Condition::All => RuleCondition::All,
                Condition::ToOrCcMe => RuleCondition::SentToOrCcMe,
            },
        }),
    };
    let change = order.change.is_some_and(|change| change.yes);
    let lose = order.change.is_some_and(|change| change.remove_outlook_rules);
    let bar = if std::io::stderr().is_terminal() && !cli.json {
        indicatif::ProgressBar::new(found.targets.len() as u64)
    } else {
        indicatif::ProgressBar::hidden()
    };
    let rows = deploy_rules(found.targets, &wanted, change, lose, cli.at_once, |row| {
        bar.set_message(row.address.clone());
        bar.inc(1);
    })
    .await;
    bar.finish_and_clear();
    let good = rows.iter().all(|row| row.outcome.is_as_wanted());
    let dry = order.change.is_some_and(|change| !change.yes);
    print::rows(&rows, &found.forward_to, dry, cli.json).map_err(email_router::Error::printing)?;
    Ok(good)
}

/// The whole name of the rule, by which it is known again.
fn rule_name(given: &str) -> Result<String, String> {
    let name = given.trim();
    if name.is_empty() || name.chars().count() > 200 || name.chars().any(char::is_control) {
        return Err("the name of the rule must have 1 to 200 characters on one line".to_owned());
    }
    if name.ends_with(RULE_MARKER) {
        return Ok(name.to_owned());
    }
    Ok(format!("{name} {RULE_MARKER}"))
}
