//! The command line, as clap sees it.

mod recorded;

use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use msb_sync::state::Platform;
use msb_sync::watch::{Address, parse_address};

pub(crate) use recorded::{Forget, History, Inspect, List, Prune, Rollback, Verify};

/// The version, and in release builds the commit and its day.
pub(crate) const VERSION: &str = env!("MSB_SYNC_VERSION");
/// The images file of commands that are given none.
pub(crate) const DEFAULT_FILE: &str = "images.toml";

/// Keeps this machine's container images exactly as a file says.
#[derive(Debug, Parser)]
#[command(
    name = "msb-sync",
    version = VERSION,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 done or in sync · 1 something failed or is blocked · 2 the command line or the images \
file is wrong, or (plan --detailed-exitcode, lock --check) changes are pending · 130/143 stopped by SIGINT/SIGTERM"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Tells whether `arguments` ask for more, where clap has stopped reading at `--version`.
pub(crate) fn are_verbose(arguments: &[OsString]) -> bool {
    let is_short = |argument: &str| {
        let letters = argument.strip_prefix('-').unwrap_or_default();
        !letters.is_empty()
            && letters.bytes().all(|letter| matches!(letter, b'v' | b'V'))
            && letters.contains('v')
    };
    arguments
        .iter()
        .skip(1)
        .filter_map(|argument| argument.to_str())
        .any(|argument| argument == "--verbose" || is_short(argument))
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Directory of the catalog, the downloads and the layers [default: the variable
    /// `MICROSANDBOX_HOME`, else ~/.microsandbox]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Print JSON: one document, or one event a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print errors only; `list` prints the names of images, one a line
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more: each request, and all that is kept (-vv: the headers of requests, too)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Colour the output (the variable `NO_COLOR` is respected)
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: When,
    /// Show progress: as bars on a terminal, as lines elsewhere
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) progress: When,
    /// Threads that write files [default: one a core]
    #[arg(short, long, global = true, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// On a terminal
    Auto,
    /// Yes
    Always,
    /// No
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Described {
    /// Every document and every event that commands print
    Output,
}

/// The form of a result on standard output, with `--json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Printed {
    Document,
    Events,
    /// A tar, which nothing else may be mixed with.
    Bundle,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the machine match the images file
    Apply(Apply),
    /// Show what apply would do; changes nothing
    Plan(Plan),
    /// Apply now, and again whenever the file, the lockfile, the store or a tag changes
    Watch(Watch),
    /// Resolve every image and write FILE's lockfile
    Lock(Lock),
    /// Show what changed from one lockfile to another
    Diff(Diff),
    /// Show newer tags than those that the images file lists
    Outdated {
        /// The images file; `-` is standard input
        #[arg(default_value = DEFAULT_FILE, value_name = "FILE")]
        file: PathBuf,
    },
    /// Write images into the images file; its comments and its order stay
    Add(Add),
    /// Take images out of the images file; its comments and its order stay
    Remove(Remove),
    /// Fetch images that no images file lists
    Pull(Pull),
    /// Write a bundle for other engines and for machines without a network
    Export(Export),
    /// Show what the catalog holds
    List(List),
    /// Show the bytes on disk, by kind and by image, and what could be freed
    Df,
    /// Show one image: digests, platform, config, layers, paths
    Inspect(Inspect),
    /// Show which digests images have meant here, and when
    History(History),
    /// Make an earlier digest of an image the present one, and hold it
    Rollback(Rollback),
    /// Compare the extracted layers with what was recorded of them
    Verify(Verify),
    /// Remove what the images file no longer wants, and layers that nobody needs
    Prune(Prune),
    /// Forget recorded images, with the layers that nobody else needs
    Forget(Forget),
    /// Show which CAs and logs of Sigstore's are believed
    TrustRoot {
        /// The images file, whose `trusted-root` counts [default: images.toml where there is one,
        /// else the root that is built in]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Write a commented starter images.toml (never overwrites)
    Init,
    /// Print the JSON Schema of the images file, or of what --json prints
    Schema {
        /// The thing that the schema describes [default: the images file]
        #[arg(value_name = "WHAT")]
        what: Option<Described>,
    },
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page
    Man {
        /// Write a page for each command into this directory instead
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

impl Command {
    /// The verb of the library that carries the command out.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Apply(_) if self.watches() => "watch",
            Self::Apply(_) => "apply",
            Self::Plan(_) => "plan",
            Self::Watch(_) => "watch",
            Self::Lock(_) => "lock",
            Self::Diff(_) => "diff",
            Self::Pull(_) => "pull",
            Self::Export(_) => "export",
            Self::List(_) => "list",
            Self::Df => "df",
            Self::Outdated { .. } => "outdated",
            Self::Inspect(_) => "inspect",
            Self::History(_) => "history",
            Self::Rollback(_) => "rollback",
            Self::Verify(_) => "verify",
            Self::Prune(_) => "prune",
            Self::Add(_) => "add",
            Self::Remove(_) => "remove",
            Self::Forget(_) => "forget",
            Self::TrustRoot { .. } => "trust-root",
            Self::Init => "init",
            Self::Schema { .. } => "schema",
            Self::Completions { .. } => "completions",
            Self::Man { .. } => "man",
        }
    }

    /// The images file may be a stranger's.
    pub(crate) fn is_untrusted(&self) -> bool {
        matches!(
            self,
            Self::Plan(Plan { untrusted: true, .. })
                | Self::Lock(Lock { untrusted: true, .. })
                | Self::Diff(Diff { untrusted: true, .. })
        )
    }

    /// The way in which `--json` prints the command's result.
    pub(crate) fn result(&self) -> Printed {
        match self {
            Self::Apply(Apply { dry_run: true, .. }) | Self::Rollback(Rollback { release: true, .. }) => {
                Printed::Document
            }
            Self::Apply(_) | Self::Watch(_) | Self::Pull(_) | Self::Rollback(_) => Printed::Events,
            Self::Export(Export { output, .. }) if output == Path::new("-") => Printed::Bundle,
            _ => Printed::Document,
        }
    }

    /// The command goes on until it is stopped.
    pub(crate) fn watches(&self) -> bool {
        matches!(self, Self::Watch(_) | Self::Apply(Apply { watch: true, .. }))
    }
}

// The images that a command is about. No doc comment: clap would print it as the command's own.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(crate) struct Target {
    /// The images file; `-` is standard input
    #[arg(default_value = DEFAULT_FILE, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Remove what the file no longer lists, too, once everything that it lists is here
    #[arg(long)]
    pub(crate) prune: bool,
    /// Let --prune remove everything where the file lists no image at all, which is refused
    /// otherwise
    #[arg(long)]
    pub(crate) allow_empty: bool,
    /// Ask no registry: what is not here is blocked
    #[arg(long)]
    pub(crate) offline: bool,
    /// Fail unless the lockfile covers the images file exactly
    #[arg(long)]
    pub(crate) locked: bool,
    /// Only the images of this group (repeatable)
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Vec<String>,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Show what would be done, like `plan`
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Run the programs of the file's [[on-change]] tables after images have changed
    #[arg(long)]
    pub(crate) hooks: bool,
    /// Go on and apply whenever something changes, like `watch`
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) watch: bool,
    /// Fetch and extract only: record, load and remove nothing; the next apply switches
    #[arg(long, conflicts_with_all = ["dry_run", "watch"])]
    pub(crate) stage: bool,
    /// Take everything from this bundle (see `export`; a directory or a tar): no network
    #[arg(long, value_name = "BUNDLE", conflicts_with = "watch")]
    pub(crate) from: Option<PathBuf>,
    /// Take the new digest of this image at once, whatever its `cooldown` (repeatable)
    #[arg(long, value_name = "REF", conflicts_with = "watch")]
    pub(crate) now: Vec<String>,
}

/// Apply now, and again whenever the file, the lockfile, the store or a tag changes
///
/// Tags are looked up again at the `interval` of the images file, and so is what failed, at the
/// latest. SIGHUP applies at once. A file that is broken or gone changes nothing until it is well
/// again.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Run the programs of the file's [[on-change]] tables after images have changed
    #[arg(long)]
    pub(crate) hooks: bool,
    /// Serve a page for people, /status.json, /metrics (for Prometheus) and /healthz at this IP
    /// address or name, and port; a port alone is on loopback
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub(crate) metrics: Option<Address>,
    /// Look at the files this often instead of waiting for the kernel to tell (network file systems
    /// are looked at without being asked for)
    #[arg(long, value_name = "SECONDS")]
    pub(crate) poll: Option<NonZeroU32>,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Exit with 2 if changes are pending (a wrong images file exits with 1 then)
    #[arg(long)]
    pub(crate) detailed_exitcode: bool,
    /// Take everything from this bundle (see `export`; a directory or a tar): no network
    #[arg(long, value_name = "BUNDLE")]
    pub(crate) from: Option<PathBuf>,
    /// Take FILE for a stranger's, as a pull request's is: refuse what reads local files, names
    /// credentials or hosts, or says where files are written; leave stored logins alone
    #[arg(long)]
    pub(crate) untrusted: bool,
}

/// Resolve every image and write FILE's lockfile
///
/// The lockfile lies beside FILE: images.lock for images.toml. While it exists, apply and plan use
/// its digests. A locked tag moves with --upgrade only.
#[derive(Debug, Args)]
pub(crate) struct Lock {
    /// The images file
    #[arg(default_value = DEFAULT_FILE, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Look up again what the tags of these images mean, and choose again from the tags of these
    /// repositories; all, if none is given
    #[arg(long, value_name = "REF", num_args = 0..)]
    pub(crate) upgrade: Option<Vec<String>>,
    /// Write nothing; exit with 2 if the lockfile would change (a wrong images file exits with 1
    /// then)
    #[arg(long)]
    pub(crate) check: bool,
    /// Take FILE for a stranger's, as a pull request's is: refuse what reads local files, names
    /// credentials or hosts, or says where files are written; leave stored logins alone
    #[arg(long, requires = "check")]
    pub(crate) untrusted: bool,
}

impl Lock {
    /// FILE, and what --upgrade is given.
    ///
    /// `lock --upgrade images.toml` names a file: an option with any number of values takes
    /// whatever follows it, and no image is called so.
    pub(crate) fn split(&self) -> (&Path, Option<Vec<&str>>) {
        let is_file = |text: &&String| *text == "-" || Path::new(text).extension() == Some("toml".as_ref());
        let Some(values) = &self.upgrade else { return (&self.file, None) };
        match values.iter().find(is_file) {
            Some(file) if self.file == Path::new(DEFAULT_FILE) => {
                let others = values.iter().filter(|value| *value != file);
                (Path::new(file), Some(others.map(String::as_str).collect()))
            }
            _ => (&self.file, Some(values.iter().map(String::as_str).collect())),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The older lockfile; `-` is standard input
    #[arg(value_name = "OLD.lock")]
    pub(crate) old: PathBuf,
    /// The newer lockfile
    #[arg(default_value = "images.lock", value_name = "NEW.lock")]
    pub(crate) new: PathBuf,
    /// Write a table in Markdown, for the text of a pull request
    #[arg(long)]
    pub(crate) markdown: bool,
    /// Take the files for a stranger's, as a pull request's are: refuse symlinks, since an error
    /// would show lines of the file that one leads to
    #[arg(long)]
    pub(crate) untrusted: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Images, as in alpine:3.20 or ghcr.io/owner/name:tag
    #[arg(required = true, value_name = "REF")]
    pub(crate) references: Vec<String>,
    /// For this platform, as in linux/arm64 [default: that of this machine, or of FILE]
    #[arg(long, value_name = "PLATFORM", value_parser = Platform::parse_wanted)]
    pub(crate) platform: Option<Platform>,
    /// Take settings and registries from this images file, and groups, given as @NAME (`-` is
    /// standard input)
    /// [default: the machine's registries.toml alone, and ./images.toml for groups]
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The images file (`-` is standard input)
    #[arg(value_name = "FILE", default_value = DEFAULT_FILE)]
    pub(crate) file: PathBuf,
    /// Write to this directory, to this tar (OUT ends in .tar), or, with `-`, a tar to standard
    /// output
    #[arg(long, short, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Leave out the layers that this lockfile names: the receiver has them
    #[arg(long, value_name = "OLD.lock")]
    pub(crate) since: Option<PathBuf>,
    /// Only images of this group (repeatable)
    #[arg(long = "group", value_name = "NAME")]
    pub(crate) groups: Vec<String>,
    /// Only this image, which FILE lists (repeatable)
    #[arg(long = "image", value_name = "REF")]
    pub(crate) images: Vec<String>,
    /// Lead to the original indexes instead of straight to the platform's manifests
    #[arg(long)]
    pub(crate) index: bool,
    /// Add a manifest.json, for docker's classic image store
    #[arg(long)]
    pub(crate) docker: bool,
    /// For this platform, as in linux/arm64 [default: that of FILE]
    #[arg(long, value_name = "PLATFORM", value_parser = Platform::parse_wanted)]
    pub(crate) platform: Option<Platform>,
    /// Ask no registry: what is recorded and kept here has to do
    #[arg(long)]
    pub(crate) offline: bool,
}

/// Write images into the images file; its comments and its order stay
///
/// If there is no file, one is made. An image that the file lists already is said to be there.
/// Nothing is fetched: `plan` shows what `apply` would do then.
#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Images, as in alpine:3.20 or ghcr.io/owner/name:tag
    #[arg(required_unless_present = "from", value_name = "REF")]
    pub(crate) references: Vec<String>,
    /// The images file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    pub(crate) file: PathBuf,
    /// Add the images that this file names: a compose file, Kubernetes objects, a regsync.yml, a
    /// Dockerfile or Containerfile, or one reference a line; `-` is standard input
    #[arg(long, value_name = "SOURCE")]
    pub(crate) from: Option<PathBuf>,
    /// Put them into this group
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Option<String>,
}

/// Take images out of the images file; its comments and its order stay
///
/// An image goes out of its groups, too. A repository without a tag means the selections of its
/// tags, and its tag latest. What is here of the images stays until `apply --prune` or `prune`.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Images as FILE lists them, as in alpine:3.20 or ghcr.io/owner/name:tag
    #[arg(required = true, value_name = "REF")]
    pub(crate) references: Vec<String>,
    /// The images file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    pub(crate) file: PathBuf,
}
