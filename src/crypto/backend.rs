//! The implementations of the sector cipher, and the choice among them.
//!
//! The choice is made once, when the program starts, and passed on as a plain value, so that no loop detects
//! features. A user can choose by name (`COWHIDE_CIPHER`), for a measurement or to find the cause of a problem. The
//! error distinguishes an unknown name from a backend that this machine can't run.
//!
use core::error::Error;
use core::fmt;

#[cfg(target_arch = "x86_64")]
use super::aes_x86;

/// An implementation of the sector cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Constant-time software, on any machine.
    Soft,
    /// The `aes` crate's own choice, which may be ARMv8 instructions.
    Portable,
    /// x86 AES-NI kernels, 128 bits wide.
    AesNi,
    /// x86 VAES kernels, 256 bits wide.
    Vaes256,
    /// x86 VAES kernels, 512 bits wide.
    Vaes512,
}

impl Backend {
    /// All backends, whether or not this machine has them, the slowest first.
    pub const ALL: [Self; 5] = [
        Self::Soft,
        Self::Portable,
        Self::AesNi,
        Self::Vaes256,
        Self::Vaes512,
    ];

    /// Returns the fastest backend that this machine has.
    ///
    /// This is a fixed order of preference from measurements. A measurement at start-up would depend on the machine's
    /// load. `Portable` ranks below the x86 kernels and above `Soft`.
    #[must_use]
    pub fn detect() -> Self {
        Self::ALL
            .into_iter()
            .rev()
            .find(|backend| backend.is_available())
            .unwrap_or(Self::Portable)
    }

    /// Returns the backends that this machine has, the slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::ALL
            .into_iter()
            .filter(|backend| backend.is_available())
            .collect()
    }

    /// Returns true if this machine can run the backend.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Soft | Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::AesNi => aes_x86::has_aesni(),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes256 => aes_x86::has_vaes256(),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes512 => aes_x86::has_vaes512(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::AesNi | Self::Vaes256 | Self::Vaes512 => false,
        }
    }

    /// Returns the backend of that name, or the best for `auto`.
    ///
    /// # Errors
    ///
    /// Returns [`BackendError::Unknown`] if there is no such name, and [`BackendError::Unavailable`] if there
    /// is but this machine can't run it.
    pub fn from_name(name: &str) -> Result<Self, BackendError> {
        if name == "auto" {
            return Ok(Self::detect());
        }
        let backend = Self::ALL
            .into_iter()
            .find(|backend| backend.name() == name)
            .ok_or_else(|| BackendError::Unknown(name.to_owned()))?;
        if backend.is_available() {
            Ok(backend)
        } else {
            Err(BackendError::Unavailable(backend))
        }
    }

    /// Returns the name for users.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Portable => "portable",
            Self::AesNi => "aesni",
            Self::Vaes256 => "vaes",
            Self::Vaes512 => "vaes512",
        }
    }

    /// Returns the description, in a line.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Soft => "constant-time software (fixslicing), 8 sectors in flight",
            Self::Portable => {
                "the aes crate's pick for this machine (AES-NI, VAES, ARMv8 or software)"
            }
            Self::AesNi => "AES-NI kernels, 128 bits wide, up to 12 sectors in flight",
            Self::Vaes256 => "VAES kernels, 256 bits wide, up to 24 sectors in flight",
            Self::Vaes512 => "VAES kernels, 512 bits wide, up to 60 sectors in flight",
        }
    }

    /// Returns the symbol of the encryption kernel, by which debuggers and profilers find it in any build. The
    /// backends of the `aes` crate have none, since the compiler may inline them.
    #[must_use]
    pub const fn symbol(self) -> Option<&'static str> {
        match self {
            Self::Soft | Self::Portable => None,
            Self::AesNi => Some("cowhide_aes128_cbc_encrypt_aesni"),
            Self::Vaes256 => Some("cowhide_aes128_cbc_encrypt_vaes256"),
            Self::Vaes512 => Some("cowhide_aes128_cbc_encrypt_vaes512"),
        }
    }

    /// Returns the names of the processor features that the backend needs, as Linux and compilers have them. Each has
    /// true if this machine has it.
    #[must_use]
    pub fn features(self) -> Vec<(&'static str, bool)> {
        #[cfg(target_arch = "x86_64")]
        {
            let aes = ("aes", is_x86_feature_detected!("aes"));
            let vaes = ("vaes", is_x86_feature_detected!("vaes"));
            let pclmul = ("vpclmulqdq", is_x86_feature_detected!("vpclmulqdq"));
            let avx2 = ("avx2", is_x86_feature_detected!("avx2"));
            let avx512f = ("avx512f", is_x86_feature_detected!("avx512f"));
            match self {
                Self::Soft | Self::Portable => vec![],
                Self::AesNi => vec![aes],
                Self::Vaes256 => vec![aes, vaes, pclmul, avx2],
                Self::Vaes512 => vec![aes, vaes, pclmul, avx512f],
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        match self {
            Self::Soft | Self::Portable => vec![],
            Self::AesNi => vec![("aes", false)],
            Self::Vaes256 => ["aes", "vaes", "vpclmulqdq", "avx2"]
                .map(|name| (name, false))
                .into(),
            Self::Vaes512 => ["aes", "vaes", "vpclmulqdq", "avx512f"]
                .map(|name| (name, false))
                .into(),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The reason why there is no backend for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendError {
    /// No backend has that name.
    Unknown(String),
    /// This machine lacks a feature that the backend needs.
    Unavailable(Backend),
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => {
                write!(f, "unknown cipher backend '{name}' (known are auto")?;
                for backend in Backend::ALL {
                    write!(f, ", {backend}")?;
                }
                f.write_str(")")
            }
            Self::Unavailable(backend) => {
                let missing: Vec<_> = backend
                    .features()
                    .into_iter()
                    .filter_map(|(name, present)| (!present).then_some(name))
                    .collect();
                write!(
                    f,
                    "cipher backend '{backend}' is not available on this machine: \
                     it has no {}",
                    missing.join(", ")
                )
            }
        }
    }
}

impl Error for BackendError {}

/// The environment variable that forces a cipher backend.
pub const BACKEND_VARIABLE: &str = "COWHIDE_CIPHER";

/// Returns the backend to use: the fastest of this machine, unless [`BACKEND_VARIABLE`] names another.
///
/// # Errors
/// Returns an error if the variable names a backend that doesn't exist or that this machine doesn't have.
pub fn chosen_backend() -> crate::error::Result<Backend> {
    match std::env::var(BACKEND_VARIABLE) {
        Err(std::env::VarError::NotPresent) => Ok(Backend::detect()),
        Ok(name) => Backend::from_name(&name)
            .map_err(|error| crate::error::Error::invalid(format!("{BACKEND_VARIABLE}: {error}"))),
        Err(std::env::VarError::NotUnicode(_)) => Err(crate::error::Error::invalid(format!(
            "{BACKEND_VARIABLE}: not UTF-8"
        ))),
    }
}
