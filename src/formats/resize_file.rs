//! The resizing of a file that holds a whole disk after a header of any length.

use super::new_image::{Preallocation, unsupported_preallocation};
use super::resize::Resize;
use super::zeroes::write_zeroes;
use crate::error::Result;
use crate::storage::Storage;

/// Sets the length of a file for the new size of its disk, which starts at byte `start` of the file. With `flush`,
/// the file is flushed to stable storage.
///
/// # Errors
/// Returns an error if the space can't be preallocated as requested, or the system's error. The file gets its old
/// length back then, if the system allows that.
pub(super) fn resize_file(
    file: &dyn Storage,
    start: u64,
    flush: bool,
    resize: Resize,
) -> Result<()> {
    let Resize {
        size,
        preallocation,
    } = resize;
    if preallocation == Preallocation::Metadata {
        return Err(unsupported_preallocation());
    }
    let size = size.saturating_add(start);
    let old = file.len()?;
    // The length changes first, so that a power cut leaves the disk with its old or its new size.
    file.set_len(size)?;
    let added = old..size.max(old);
    let taken = match preallocation {
        Preallocation::Off | Preallocation::Metadata => Ok(()),
        Preallocation::Falloc => file
            .reserve(added.clone())
            .and_then(|reserved| match reserved {
                true => Ok(()),
                false => write_zeroes(file, added),
            }),
        Preallocation::Full => write_zeroes(file, added),
    };
    if let Err(error) = taken {
        // The first error is the one to report.
        drop(file.set_len(old));
        return Err(error);
    }
    file.flush_if(flush)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Fault, MemoryStorage, Operation};

    fn to(size: u64, preallocation: Preallocation) -> Resize {
        Resize {
            size,
            preallocation,
        }
    }

    #[test]
    fn a_file_gets_the_length_and_zeroes() {
        for preallocation in [
            Preallocation::Off,
            Preallocation::Falloc,
            Preallocation::Full,
        ] {
            let file = MemoryStorage::new(vec![7; 1000]);
            resize_file(&file, 0, true, to(5000, preallocation)).unwrap();
            let mut expected = vec![7; 1000];
            expected.resize(5000, 0);
            assert_eq!(file.contents(), expected, "{preallocation:?}");
        }
        let file = MemoryStorage::new(vec![7; 1000]);
        resize_file(&file, 0, true, to(512, Preallocation::Off)).unwrap();
        assert_eq!(file.contents(), vec![7; 512]);
        assert!(resize_file(&file, 0, true, to(1024, Preallocation::Metadata)).is_err());
        assert_eq!(file.contents(), vec![7; 512]);
    }

    #[test]
    fn a_file_that_cannot_be_filled_keeps_its_length() {
        let fault = Fault {
            operation: Operation::Write,
            nth: 1,
            errno: 28,
        };
        let file = MemoryStorage::new(vec![7; 1000]).with_fault(fault);
        let error = resize_file(&file, 0, true, to(5000, Preallocation::Full)).unwrap_err();
        assert!(
            error.to_string().ends_with("No space left on device"),
            "{error}"
        );
        assert_eq!(file.contents(), vec![7; 1000]);
    }

    #[test]
    fn a_device_keeps_its_length() {
        let device = MemoryStorage::new(vec![7; 1024]).as_device();
        resize_file(&device, 0, true, to(1024, Preallocation::Off)).unwrap();
        assert!(resize_file(&device, 0, true, to(512, Preallocation::Off)).is_err());
        assert_eq!(device.contents(), vec![7; 1024]);
    }
}
