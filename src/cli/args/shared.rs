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
    /// Don't drop the privileges to open files and to use the network while an image is read
    #[arg(long, help_heading = OWN)]
    pub no_sandbox: bool,
    /// Open no file whose name is inside an image (backing files, external data files)
    #[arg(long)]
    pub untrusted: bool,
}

/// The two ways to give a password without a secret object.
#[derive(Debug, Args)]
pub struct PasswordArgs {
    /// Read the password from FILE ("-": standard input), without one newline at its end; for every encrypted image
    /// of this command without a key-secret
    #[arg(long, value_name = "FILE", allow_hyphen_values = true, help_heading = OWN)]
    pub password_file: Option<PathBuf>,
    /// Read the password from the open file descriptor N
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "password_file",
        help_heading = OWN
    )]
    pub password_fd: Option<i32>,
}

/// The two ways to give another password for an image that is written than for those that are read.
#[derive(Debug, Args)]
pub struct TargetPasswordArgs {
    /// Read the target's password from FILE, without one newline at its end; the default is that of --password-file
    /// or --password-fd
    #[arg(long, value_name = "FILE", allow_hyphen_values = true, help_heading = OWN)]
    target_password_file: Option<PathBuf>,
    /// Read the target's password from the open file descriptor N
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "target_password_file",
        help_heading = OWN
    )]
    target_password_fd: Option<i32>,
}

impl TargetPasswordArgs {
    /// Returns the options as those of a single password, or `None` if none is given.
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
    /// Show progress: a percentage as in qemu-img, or with "=json" lines of JSON on standard error ("=json:N": on
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

/// The format of a report that qemu-img only has as text.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// human or json
    #[arg(long, value_name = "FORM", default_value = "human", help_heading = OWN)]
    pub(in crate::cli) output: String,
}

/// The option against wrong passwords.
#[derive(Debug, Args)]
pub struct PlausibleArgs {
    /// Fail if an image of legacy AES decrypts to noise, as it does with a wrong password. Without this option it is
    /// a warning, at a terminal only
    #[arg(long, help_heading = OWN)]
    pub require_plausible: bool,
}

/// The options by which an image is named.
#[derive(Debug, Args)]
pub struct NamedArgs {
    /// Format of the image; it is probed by default
    #[arg(short, long, value_name = "FMT", allow_hyphen_values = true)]
    pub(in crate::cli) format: Option<String>,
    /// FILENAME is an option string (driver=…,file.filename=…), not a file name
    #[arg(long)]
    pub(in crate::cli) image_opts: bool,
}

/// The options for writing an image.
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

/// The options for an image to report on.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// Format of the image; it is probed by default
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
    /// Open the image even while another process writes it; its contents may be inconsistent
    #[arg(short = 'U', long)]
    pub(in crate::cli) force_share: bool,
    /// human or json
    #[arg(long, value_name = "FORM", default_value = "human")]
    pub(in crate::cli) output: String,
    /// The image
    #[arg(value_name = "FILENAME")]
    pub(in crate::cli) operands: Vec<OsString>,
}

impl ImageArgs {
    /// Returns the sharing of the image: forced with `-U`, or else `own`, that of its options.
    pub(in crate::cli) fn sharing(&self, own: Sharing) -> Sharing {
        if self.force_share {
            own.max(Sharing::Forced)
        } else {
            own
        }
    }
}
