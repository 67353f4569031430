//! Options that several subcommands have.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::cli::getopt::OWN;
use crate::commands::Sharing;

/// Options that every subcommand has.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Define a secret: secret,id=ID,file=PATH (or data=TEXT, which other users can see)
    #[arg(long, value_name = "OBJDEF", allow_hyphen_values = true)]
    pub object: Vec<OsString>,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Keep the right to open files and to use the network while an image is looked at
    #[arg(long, help_heading = OWN)]
    pub no_sandbox: bool,
    /// Open no file whose name is found inside an image (backing files, external data files)
    #[arg(long)]
    pub untrusted: bool,
}

/// The two ways to give a password without a secret object.
#[derive(Debug, Args)]
pub struct PasswordArgs {
    /// Take the password from FILE ("-": standard input), less one newline at its end; for every encrypted
    /// image of this command that has no key-secret
    #[arg(long, value_name = "FILE", allow_hyphen_values = true, help_heading = OWN)]
    pub password_file: Option<PathBuf>,
    /// Take the password from the open file descriptor N
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "password_file",
        help_heading = OWN
    )]
    pub password_fd: Option<i32>,
}

/// The same two ways for an image that is written, where it has another password than those that are read.
#[derive(Debug, Args)]
pub struct TargetPasswordArgs {
    /// Take the target's password from FILE, less one newline at its end; without this option it is that of
    /// --password-file or --password-fd
    #[arg(long, value_name = "FILE", allow_hyphen_values = true, help_heading = OWN)]
    target_password_file: Option<PathBuf>,
    /// Take the target's password from the open file descriptor N
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "target_password_file",
        help_heading = OWN
    )]
    target_password_fd: Option<i32>,
}

impl TargetPasswordArgs {
    /// Returns the options as those of one password; `None` if none is given.
    pub fn given(&self) -> Option<PasswordArgs> {
        let args = PasswordArgs {
            password_file: self.target_password_file.clone(),
            password_fd: self.target_password_fd,
        };
        (args.password_file.is_some() || args.password_fd.is_some()).then_some(args)
    }
}

/// The option that shows progress.
#[derive(Debug, Args)]
pub struct ProgressArgs {
    /// Show progress: a percentage as qemu-img does, or with "=json" lines of JSON on standard error ("=json:N": on
    /// descriptor N)
    #[arg(
        short,
        long,
        value_name = "FORM",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "lines"
    )]
    pub(in crate::cli) progress: Option<String>,
}

/// The form of a report that qemu-img has as text only.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// human or json
    #[arg(long, value_name = "FORM", default_value = "human", help_heading = OWN)]
    pub(in crate::cli) output: String,
}

/// The option against wrong passwords.
#[derive(Debug, Args)]
pub struct PlausibleArgs {
    /// Fail when an image of legacy AES decrypts to noise, as with a wrong password it does. Without this
    /// option, at a terminal, that is a warning
    #[arg(long, help_heading = OWN)]
    pub require_plausible: bool,
}

/// The options by which an image is named.
#[derive(Debug, Args)]
pub struct NamedArgs {
    /// Format of the image; without it, it is found out
    #[arg(short, long, value_name = "FMT", allow_hyphen_values = true)]
    pub(in crate::cli) format: Option<String>,
    /// FILENAME is an option string (driver=…,file.filename=…), not a file name
    #[arg(long)]
    pub(in crate::cli) image_opts: bool,
}

/// The way in which an image is written.
#[derive(Debug, Args)]
pub struct WrittenArgs {
    /// Cache mode of the image
    #[arg(
        short = 't',
        long,
        value_name = "CACHE",
        default_value = "writeback",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) cache: String,
}

/// One image to look at, and how to report on it.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// Format of the image; without it, it is found out
    #[arg(
        short,
        long,
        value_name = "FMT",
        alias = "source-format",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) format: Option<String>,
    /// FILENAME is an option string (driver=…,file.filename=…), not a file name
    #[arg(long, alias = "source-image-opts")]
    pub(in crate::cli) image_opts: bool,
    /// Open the image even while another process writes it; what is seen may be inconsistent
    #[arg(short = 'U', long)]
    pub(in crate::cli) force_share: bool,
    /// human or json (map: also picture or svg)
    #[arg(long, value_name = "FORM", default_value = "human")]
    pub(in crate::cli) output: String,
    /// The image
    #[arg(value_name = "FILENAME")]
    pub(in crate::cli) operands: Vec<OsString>,
}

impl ImageArgs {
    /// Returns what the image is opened with: forced sharing with `-U`, else what its own options `stated`.
    pub(in crate::cli) fn sharing(&self, stated: Sharing) -> Sharing {
        if self.force_share {
            stated.max(Sharing::Forced)
        } else {
            stated
        }
    }
}
