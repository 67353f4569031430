//! What options say of an image that only the image itself can bear out.
//!
//! Where nobody states a format, options may be those of either; where sizes depend on the image's
//! clusters, the options can't say whether they are right. Such are kept here, and held against the image
//! once its format, or its header, is known.

use super::Source;
use crate::error::{Error, Result, printable};
use crate::formats::Format;
use crate::storage::{CacheMode, Protocol, Storage, WindowRange};

/// What is to be held against the image.
#[derive(Debug, Clone, Default)]
pub struct Stated {
    /// The window that a raw image is in, and the first of the options that say so; only where no format is
    /// stated.
    pub window: Option<(WindowRange, String)>,
    /// The first option that only qcow2 images have; only where no format is stated.
    pub of_qcow2: Option<String>,
    /// The first option that no image has; only where no format is stated.
    pub of_none: Option<String>,
    /// How many bytes of an L2 table are cached at a time.
    pub l2_entry: Option<u64>,
    /// Whether the file is to be read in a way that goes past the system's cache, and no option says that it
    /// may.
    pub needs_direct: bool,
    /// Whether the file's name is that of a disk image of macOS.
    pub named_dmg: bool,
}

impl Stated {
    /// Holds the cache mode against what options say.
    ///
    /// # Errors
    /// It uses the system's cache, and must not.
    pub(super) fn check_cache(&self, cache: CacheMode) -> Result<()> {
        if self.needs_direct && !cache.is_direct() {
            return Err(Error::invalid(
                "aio=native was specified, but it requires cache.direct=on, which was not specified.",
            ));
        }
        Ok(())
    }

    /// Holds a format that was found against what options say, and gives the window of a raw image.
    ///
    /// # Errors
    /// It doesn't have one of the options; it is only taken for raw since nothing tells what it is.
    pub(super) fn check_found(
        &self,
        format: Format,
        file: &dyn Storage,
    ) -> Result<Option<WindowRange>> {
        let transparent = format.capabilities().transparent;
        if transparent && self.named_dmg {
            refuse_dmg(file)?;
        }
        let window = self.window.as_ref();
        let of_other = match transparent {
            true => self.of_qcow2.as_deref(),
            false => window.map(|(_, option)| option.as_str()),
        };
        match of_other.or(self.of_none.as_deref()) {
            Some(option) => Err(Error::invalid(format!(
                "Block format '{format}' does not support the option '{option}'"
            ))),
            None => Ok(window.map(|(range, _)| *range)),
        }
    }
}

impl Source<'_> {
    /// Takes the name of a driver for the format, where one is stated. That of a file or device means the
    /// bytes in it as they are.
    ///
    /// # Errors
    /// This version doesn't have it.
    pub fn of_driver(&mut self, name: Option<&str>) -> Result<()> {
        let Some(name) = name else { return Ok(()) };
        self.format = if let Some(protocol) = Protocol::from_name(name) {
            self.is_bare = true;
            self.protocol = Some(protocol);
            Some(Format::RAW)
        } else {
            let unknown = || Error::invalid(format!("Unknown driver '{}'", printable(name)));
            Some(Format::from_name(name).ok_or_else(unknown)?)
        };
        Ok(())
    }
}

/// Refuses what is called a disk image of macOS: one that is has its mark at the end.
fn refuse_dmg(file: &dyn Storage) -> Result<()> {
    let mut mark = [0; 4];
    let end = file.len()?.checked_sub(512);
    let read = end.map(|end| file.read_at(end, &mut mark)).transpose()?;
    Err(if read == Some(4) && mark == *b"koly" {
        Error::unsupported(
            "the image looks like 'dmg', a format that this version doesn't support (-f raw reads it \
             as it is)",
        )
    } else {
        Error::invalid("Could not locate UDIF trailer in dmg file")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn each_format_has_its_options() {
        let file = MemoryStorage::new(vec![0; 1024]);
        let found = |stated: &Stated, format| {
            let found = stated.check_found(format, &file);
            found.map_err(|error| error.to_string())
        };
        let none = "does not support the option 'zoo'";
        let range = WindowRange {
            offset: 512,
            size: None,
        };
        let raw = Stated {
            window: Some((range, "offset".into())),
            ..Stated::default()
        };
        assert_eq!(found(&raw, Format::RAW), Ok(Some(range)));
        assert!(found(&raw, Format::QCOW2).is_err());
        let qcow2 = Stated {
            of_qcow2: Some("zoo".into()),
            ..Stated::default()
        };
        assert_eq!(found(&qcow2, Format::QCOW2), Ok(None));
        assert!(found(&qcow2, Format::RAW).unwrap_err().contains(none));
        let neither = Stated {
            of_none: Some("zoo".into()),
            ..Stated::default()
        };
        for format in crate::formats::FORMATS.iter().copied() {
            assert!(found(&neither, format).unwrap_err().contains(none));
        }
    }

    #[test]
    fn what_is_called_dmg_is_not_taken_for_raw() {
        let named = Stated {
            named_dmg: true,
            ..Stated::default()
        };
        let message = |bytes: &[u8]| {
            let file = MemoryStorage::new(bytes.to_vec());
            assert_eq!(named.check_found(Format::QCOW2, &file).unwrap(), None);
            let refused = named.check_found(Format::RAW, &file);
            refused.unwrap_err().to_string()
        };
        for bytes in [&[][..], &[7; 511], &[7; 600]] {
            assert!(message(bytes).contains("Could not locate UDIF trailer"));
        }
        assert!(message(&[&b"koly"[..], &[0; 508]].concat()).contains("'dmg'"));
    }
}
