//! The protocol `null-co`: a size without bytes.
//!
//! Writes are discarded, and reads give zeroes, whatever `read-zeroes` says: without that option QEMU returns
//! uninitialised memory. The protocol serves to measure everything but the storage, and with `latency-ns` the effect
//! of a slow one.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::driver::{Opening, Stipulations, StorageDriver};
use super::{Identity, Storage};
use crate::error::{Error, Result};
use crate::options::json::PREFIX;
use crate::options::{Kind, OptionSpec, Values};

/// The only name of this protocol.
const NAME: &str = "null-co://";

/// The length without an option, in bytes.
const DEFAULT_SIZE: u64 = 1 << 30;

/// The greatest length that QEMU gives a node, in bytes.
const MOST_SIZE: u64 = (i64::MAX as u64) >> 30 << 30;

const SIZE: &str = "size";
const LATENCY: &str = "latency-ns";
const READ_ZEROES: &str = "read-zeroes";

const OPEN_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new(SIZE, Kind::Size, "size of the null block"),
    OptionSpec::new(LATENCY, Kind::Number, "nanoseconds that each request waits"),
    OptionSpec::new(READ_ZEROES, Kind::Switch, "whether zeroes are read"),
];

/// The driver.
#[derive(Debug)]
pub(super) struct Null;

impl StorageDriver for Null {
    fn name(&self) -> &'static str {
        "null-co"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["null-co"]
    }

    fn open_options(&self) -> &'static [OptionSpec] {
        OPEN_OPTIONS
    }

    fn shown_options(&self) -> &'static [&'static str] {
        &[SIZE, READ_ZEROES]
    }

    fn check(&self, options: &Values) -> Result<Stipulations> {
        latency(options)?;
        let is_plain = self
            .shown_options()
            .iter()
            .all(|name| options.name(name).is_none());
        Ok(Stipulations {
            path: is_plain.then(|| NAME.into()),
            ..Stipulations::default()
        })
    }

    fn open(&self, path: &Path, options: &Values, _: Opening) -> Result<Arc<dyn Storage>> {
        let location = path.as_os_str();
        let is_options = location.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        if location != NAME && !is_options {
            return Err(Error::invalid(format!(
                "The only allowed filename for this driver is '{NAME}'"
            )));
        }
        let size = options.number(SIZE).unwrap_or(DEFAULT_SIZE);
        if size > MOST_SIZE {
            return Err(Error::invalid(
                "Could not refresh total sector count: File too large",
            ));
        }
        Ok(Arc::new(NullStorage {
            size,
            latency: latency(options)?,
            location: location.to_owned(),
        }))
    }
}

/// Returns the time that each request takes.
fn latency(options: &Values) -> Result<Duration> {
    let nanoseconds = options.number(LATENCY).unwrap_or(0);
    if i64::try_from(nanoseconds).is_err() {
        return Err(Error::invalid("latency-ns is invalid"));
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// A storage without bytes.
#[derive(Debug)]
struct NullStorage {
    size: u64,
    latency: Duration,
    location: OsString,
}

impl NullStorage {
    fn wait(&self) {
        if !self.latency.is_zero() {
            // The sandbox doesn't allow the system call for sleeping.
            thread::park_timeout(self.latency);
        }
    }

    fn refuse_beyond(&self, end: Option<u64>) -> Result<()> {
        match end {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::invalid(format!(
                "a null-co storage of {} bytes can't grow",
                self.size
            ))),
        }
    }
}

impl Storage for NullStorage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.wait();
        let rest = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = rest.min(buf.len());
        if let Some(part) = buf.get_mut(..length) {
            part.fill(0);
        }
        Ok(length)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.wait();
        self.refuse_beyond(offset.checked_add(data.len() as u64))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.size)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        match len == self.size {
            true => Ok(()),
            false => Err(Error::unsupported(
                "Image format driver does not support resize",
            )),
        }
    }

    fn punch(&self, range: Range<u64>) -> Result<bool> {
        self.refuse_beyond(Some(range.end))?;
        Ok(true)
    }

    fn reserve(&self, range: Range<u64>) -> Result<bool> {
        self.refuse_beyond(Some(range.end))?;
        Ok(true)
    }

    fn copy_from(&self, _: u64, _: &dyn Storage, _: u64, _: u64) -> Result<bool> {
        Ok(false)
    }

    fn identity(&self) -> Result<Identity> {
        Ok(Identity::unshared())
    }

    fn location(&self) -> &OsStr {
        &self.location
    }

    fn driver(&self) -> &'static str {
        Null.name()
    }

    fn has_fixed_length(&self) -> bool {
        true
    }

    fn next_data(&self, _: u64) -> Result<Option<Range<u64>>> {
        Ok(None)
    }

    fn allocated(&self) -> Result<Option<u64>> {
        Ok(Some(0))
    }

    fn flush(&self) -> Result<()> {
        self.wait();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Access, CacheMode};

    fn open(size: u64) -> Arc<dyn Storage> {
        let mut values = Values::default();
        values.set(SIZE, size.to_string());
        let opening = Opening::new(Access::ReadWrite, CacheMode::Writeback);
        Null.open(Path::new("json:{}"), &values, opening).unwrap()
    }

    #[test]
    fn writes_leave_zeroes_and_stay_inside() {
        let null = open(1000);
        null.write_at(990, &[1; 10]).unwrap();
        assert!(null.write_at(991, &[1; 10]).is_err());
        assert!(null.write_at(u64::MAX, &[1]).is_err());
        assert!(null.set_len(1001).is_err());
        let mut buf = [7; 20];
        assert_eq!(null.read_at(990, &mut buf).unwrap(), 10);
        assert_eq!(buf[..10], [0; 10]);
        assert_eq!(null.read_at(1000, &mut buf).unwrap(), 0);
        assert_eq!(null.next_data(0).unwrap(), None);
    }

    #[test]
    fn there_is_one_name() {
        let opening = Opening::new(Access::Read, CacheMode::Writeback);
        let open = |name: &str| Null.open(Path::new(name), &Values::default(), opening);
        assert_eq!(open(NAME).unwrap().len().unwrap(), DEFAULT_SIZE);
        // In particular, no file may be replaced by zeroes.
        for name in ["null-co://x", "null-co:", "disk.raw"] {
            let refused = open(name).unwrap_err().to_string();
            assert_eq!(
                refused,
                "The only allowed filename for this driver is 'null-co://'"
            );
        }
    }
}
