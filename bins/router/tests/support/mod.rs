//! A folder with a configuration, a CRM and mailboxes, and the program run in it as a person runs it.
#![allow(dead_code)] // each test program uses a part of it
#![allow(clippy::disallowed_methods)] // files that the tests made
#![allow(clippy::expect_used, clippy::unwrap_used)] // a helper of a test that cannot go on fails the test

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// The longest that is waited for something that certainly happens.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A folder to work in, gone at the end.
pub(crate) struct World {
    folder: TempDir,
}

/// What a run of the program left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    what: String,
}

impl World {
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::Builder::new().prefix("email-router-cli").tempdir().unwrap() }
    }

    /// With this configuration.
    pub(crate) fn with(config: &str) -> Self {
        let world = Self::empty();
        world.write("EmailAgent.xml", config);
        world
    }

    /// Maildir in and out, the user Ann (filter All) and the queue Support (filter All) in the CRM, contact Tom.
    pub(crate) fn maildir() -> Self {
        let world = Self::with(&maildir_config("", ""));
        world.people();
        for address in ["ann@example.com", "support@example.com"] {
            for kind in ["new", "cur", "tmp"] {
                fs::create_dir_all(world.path("mail").join(address).join(kind)).unwrap();
            }
        }
        world
    }

    /// The records of [`World::maildir`].
    pub(crate) fn people(&self) {
        let both =
            ["incomingemaildeliverymethod=2", "outgoingemaildeliverymethod=2", "emailrouteraccessapproval=1"];
        let all = "incomingemailfilteringmethod=0";
        let ann =
            ["crm", "add", "systemuser", "fullname=Ann Lee", "internalemailaddress=ann@example.com", all];
        self.run(ann.into_iter().chain(both)).ok();
        let support = ["crm", "add", "queue", "name=Support", "emailaddress=support@example.com", all];
        self.run(support.into_iter().chain(both)).ok();
        self.run(["crm", "add", "contact", "fullname=Tom Okafor", "emailaddress1=tom@example.net"]).ok();
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: impl AsRef<Path>, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn read(&self, name: impl AsRef<Path>) -> String {
        let path = self.path(name);
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Names in a folder, sorted; nothing when it is not there.
    pub(crate) fn names(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let read = fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> = read.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Puts a message into a Maildir mailbox as a delivery does.
    pub(crate) fn deliver(&self, address: &str, name: &str, text: &str) -> PathBuf {
        self.write(Path::new("mail").join(address).join("new").join(name), text.replace('\n', "\r\n"))
    }

    /// The program, in this folder, with this configuration and nothing of the environment that would change it.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_email-router"));
        command.current_dir(self.folder.path()).args(words).stdin(Stdio::null());
        for name in ["EMAIL_ROUTER_CONFIG", "EMAIL_ROUTER_LOG", "EMAIL_ROUTER_KEY", "RUST_LOG"] {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Ran {
        let mut command = self.command(words);
        let what = format!("{:?}", command.get_args().collect::<Vec<_>>());
        Ran::new(what, command.output().unwrap())
    }

    /// The same with something to read.
    pub(crate) fn feed<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>, input: &str) -> Ran {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let what = format!("{:?}", command.get_args().collect::<Vec<_>>());
        let mut child = command.spawn().unwrap();
        // a program that refuses before it reads closes the pipe
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Ran::new(what, child.wait_with_output().unwrap())
    }

    /// Runs with `--json` and reads what came; the exit code is as it is.
    pub(crate) fn json<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Value {
        let ran = self.run(["--json"].into_iter().chain(words));
        serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
    }

    /// Starts the service with its output in `out.txt` and `err.txt`.
    pub(crate) fn start<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Running {
        let mut command = self.command(["run"].into_iter().chain(words));
        command.stdout(fs::File::create(self.path("out.txt")).unwrap());
        command.stderr(fs::File::create(self.path("err.txt")).unwrap());
        Running(Some(command.spawn().unwrap()))
    }

    /// Waits until the condition holds.
    pub(crate) fn until(&self, what: &str, condition: impl FnMut() -> bool) {
        if !eventually(condition) {
            let err = fs::read(self.path("err.txt")).unwrap_or_default();
            panic!("{what} did not happen within {LONG:?}; log:\n{}", String::from_utf8_lossy(&err));
        }
    }
}

/// Somebody who owns nothing in a world and may look at everything the modes allow: another user when the tests run as root, else the
/// same, for whom the folder is closed for writing as long as a command runs.
pub(crate) struct Stranger<'a> {
    world: &'a World,
    /// Where a copy of the program is, for who may not even look where it was built.
    program: Option<TempDir>,
}

impl<'a> Stranger<'a> {
    pub(crate) fn to(world: &'a World) -> Self {
        let root = world.folder.path().metadata().unwrap().uid() == 0;
        let program = root.then(|| {
            let aside = tempfile::tempdir().unwrap();
            fs::set_permissions(aside.path(), fs::Permissions::from_mode(0o755)).unwrap();
            // by another process: a handle of ours, inherited by what another test starts just then, would keep the copy from being run
            let copied =
                Command::new("cp").arg(env!("CARGO_BIN_EXE_email-router")).arg(aside.path()).status();
            assert!(copied.unwrap().success());
            aside
        });
        Self { world, program }
    }

    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        let folder = self.world.folder.path();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).unwrap();
        let mut command = self.world.command(words);
        if let Some(aside) = &self.program {
            command = Command::new(aside.path().join("email-router"));
            command.args(words).current_dir(folder).stdin(Stdio::null()).env_clear().uid(65_534).gid(65_534);
        }
        let ran = Ran::new(format!("a stranger's {words:?}"), command.output().unwrap());
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        ran
    }
}

impl Ran {
    fn new(what: String, output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("the standard output is text"),
            err: String::from_utf8(output.stderr).expect("the standard error is text"),
            what,
        }
    }

    /// Fails unless the exit code is 0.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.with_code(0)
    }

    #[track_caller]
    pub(crate) fn with_code(self, code: i32) -> Self {
        let Self { what, code: found, out, err } = &self;
        assert_eq!(*found, Some(code), "{what}\n--- standard output\n{out}\n--- standard error\n{err}");
        self
    }

    /// Fails unless the standard output has this.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(
            self.out.contains(text),
            "{}: no {text:?} in\n{}\n--- standard error\n{}",
            self.what,
            self.out,
            self.err
        );
        self
    }

    /// Fails unless the standard error has this.
    #[track_caller]
    pub(crate) fn complains(self, text: &str) -> Self {
        assert!(self.err.contains(text), "{}: no {text:?} in\n{}", self.what, self.err);
        self
    }
}

/// A running service; killed when a test forgets it.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let text = format!("kill -{name} {}", self.id());
        assert!(Command::new("sh").args(["-c", &text]).status().unwrap().success());
    }

    /// Whether it ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.as_mut().and_then(|child| child.try_wait().unwrap())
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        let mut status = None;
        let ended = eventually(|| {
            status = self.ended();
            status.is_some()
        });
        assert!(ended, "SIGTERM did not end the service within {LONG:?}");
        self.0 = None;
        status.and_then(|s| s.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether the condition holds within [`LONG`]; looked at again and again.
pub(crate) fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(LONG, async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .is_ok()
    })
}

/// A configuration with Maildir in and out, Ann and Support; `system` goes into SystemConfiguration, `router` into Router.
pub(crate) fn maildir_config(system: &str, router: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?>
<Configuration>
  <SystemConfiguration><SchedulingPeriod>50</SchedulingPeriod><ConfigRefreshPeriod>100</ConfigRefreshPeriod>{system}</SystemConfiguration>
  <ConfigurationProfiles>
    <ConfigurationProfile>
      <Name>in</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType><Path>mail/{{address}}</Path>
      <PollingPeriod>100</PollingPeriod><MaxMessageSize>20000</MaxMessageSize>
    </ConfigurationProfile>
    <ConfigurationProfile>
      <Name>out</Name><Direction>Outgoing</Direction><ServerType>Maildir</ServerType><Path>out</Path><PollingPeriod>100</PollingPeriod>
    </ConfigurationProfile>
  </ConfigurationProfiles>
  <Deployments>
    <Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path>
      <DefaultIncomingProfile>in</DefaultIncomingProfile><DefaultOutgoingProfile>out</DefaultOutgoingProfile></Deployment>
  </Deployments>
  <Mailboxes>
    <User><Name>Ann Lee</Name><EmailAddress>ann@example.com</EmailAddress></User>
    <Queue><Name>Support</Name><EmailAddress>support@example.com</EmailAddress></Queue>
  </Mailboxes>
  <Router>{router}</Router>
</Configuration>
"#
    )
}

/// A message.
pub(crate) fn mail(from: &str, to: &str, subject: &str) -> String {
    let id = subject.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    format!(
        "From: {from}\nTo: {to}\nSubject: {subject}\nMessage-ID: <{id}@example.net>\nDate: Fri, 20 Nov 2026 10:00:00 +0000\n\nHello\n"
    )
}
