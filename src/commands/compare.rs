//! The subcommand `compare`: the first difference between the contents of two images.

use super::{Passwords, Purpose, sandbox};
use crate::convert::compare::{self, Comparison, Difference, Side};
use crate::convert::{Observer, Settings};
use crate::error::Result;
use crate::nodes::{Disk, Node};

/// An open image to be compared.
pub struct OpenSide {
    image: Disk,
    sandbox: bool,
    /// Its name in messages.
    name: String,
}

/// Opens one of the images.
///
/// # Errors
/// Returns the errors of [`Node::open`].
pub fn open(source: Node<'_>, passwords: &dyn Passwords) -> Result<OpenSide> {
    Ok(OpenSide {
        image: source.open(Purpose::Read, passwords)?,
        sandbox: source.policy.sandbox,
        name: source.name,
    })
}

/// Compares two images. With `strict`, their sizes and their allocation status count as well. Errors are part of the
/// result. If no difference is found but the length of a file changed meanwhile, that is an error.
pub fn run(images: &[OpenSide; 2], strict: bool, observer: &dyn Observer) -> Comparison {
    if images.iter().all(|opened| opened.sandbox) {
        sandbox::enter();
    }
    let sides = images.each_ref().map(|opened| Side {
        image: opened.image.image.as_ref(),
        name: &opened.name,
    });
    let workers = Settings::default().workers;
    let mut outcome = compare::compare(sides, strict, workers, observer);
    if matches!(outcome.finding, Difference::Same) {
        let checked = images.iter().try_for_each(|one| one.image.check_lengths());
        if let Err(error) = checked {
            outcome.finding = Difference::NoData(error);
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::crypto::Secret;
    use crate::error::Error;

    struct NoPasswords;

    impl Passwords for NoPasswords {
        fn for_reading(&self, _: &str, _: &str) -> Result<&Secret> {
            Err(Error::invalid("there are none"))
        }

        fn for_writing(&self, image: &str, option: &str) -> Result<&Secret> {
            self.for_reading(image, option)
        }

        fn legacy_aes_is_used(&self, _is_new: bool) {}

        fn implausible(&self, _: &str, _: bool) -> Result<()> {
            Ok(())
        }
    }

    /// Checks that images with the same contents don't match if the length of a file changed meanwhile.
    #[test]
    fn a_file_that_grows_or_shrinks_is_no_match() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let opened = |path: &Path| {
            let source = Node::plain(path.to_owned(), "x".into(), None);
            open(source, &NoPasswords).unwrap()
        };
        for (length, is_same) in [(4096, true), (4608, false), (4095, false)] {
            fs::write(&path, [0; 4096]).unwrap();
            let images = [opened(&path), opened(&path)];
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_len(length).unwrap();
            let finding = run(&images, false, &()).finding;
            match finding {
                Difference::Same => assert!(is_same, "{length}"),
                Difference::NoData(_) | Difference::NoStatus(_) => assert!(!is_same, "{length}"),
                _ => panic!("{length}"),
            }
        }
    }
}
