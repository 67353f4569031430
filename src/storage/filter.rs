//! Filters: storages in front of other storages.
//!
//! A filter changes a few operations of the storage behind it, for example to shift offsets or to refuse writes, and
//! forwards all others. The forwarding is written here once, so that no filter can miss an operation that is added to
//! [`Storage`].
//!
//! [`Filter`] and [`Storage`] have methods of the same names. A filter is used as a [`Storage`], and
//! [`Filter`] is only named where one is implemented.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::ops::Range;

use super::{Claim, Identity, NotShared, Storage};
use crate::error::Result;

/// A storage that forwards to [`inner`](Self::inner) everything that it doesn't implement itself. The methods are
/// those of [`Storage`].
#[expect(
    missing_docs,
    clippy::len_without_is_empty,
    clippy::missing_errors_doc,
    reason = "the methods are Storage's"
)]
pub trait Filter: Debug + Send + Sync {
    /// Returns the storage behind the filter.
    fn inner(&self) -> &dyn Storage;

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.inner().read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.inner().write_at(offset, data)
    }

    fn len(&self) -> Result<u64> {
        self.inner().len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.inner().set_len(len)
    }

    fn punch(&self, range: Range<u64>) -> Result<bool> {
        self.inner().punch(range)
    }

    fn reserve(&self, range: Range<u64>) -> Result<bool> {
        self.inner().reserve(range)
    }

    fn copy_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> Result<bool> {
        self.inner()
            .copy_from(offset, source, source_offset, length)
    }

    fn share_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> Result<(), NotShared> {
        self.inner()
            .share_from(offset, source, source_offset, length)
    }

    fn may_share_with(&self, source: &dyn Storage) -> bool {
        self.inner().may_share_with(source)
    }

    fn writes_serially(&self) -> bool {
        self.inner().writes_serially()
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        self.inner().next_data(offset)
    }

    fn allocated(&self) -> Result<Option<u64>> {
        self.inner().allocated()
    }

    fn flush(&self) -> Result<()> {
        self.inner().flush()
    }

    fn starts_as_zeroes(&self) -> bool {
        self.inner().starts_as_zeroes()
    }

    fn identity(&self) -> Result<Identity> {
        self.inner().identity()
    }

    fn location(&self) -> &OsStr {
        self.inner().location()
    }

    fn driver(&self) -> &'static str {
        self.inner().driver()
    }

    fn claim(&self, claim: Claim) -> Result<()> {
        self.inner().claim(claim)
    }

    fn leave_cache(&self) -> Result<()> {
        self.inner().leave_cache()
    }

    fn has_fixed_length(&self) -> bool {
        self.inner().has_fixed_length()
    }

    fn bypasses_cache(&self) -> bool {
        self.inner().bypasses_cache()
    }

    fn ignore_holes(&self) {
        self.inner().ignore_holes();
    }
}

/// Two kinds of methods aren't forwarded: those that are built from others, and the descriptor, which would bypass
/// the filter.
impl<F: Filter> Storage for F {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        Filter::read_at(self, offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        Filter::write_at(self, offset, data)
    }

    fn len(&self) -> Result<u64> {
        Filter::len(self)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        Filter::set_len(self, len)
    }

    fn punch(&self, range: Range<u64>) -> Result<bool> {
        Filter::punch(self, range)
    }

    fn reserve(&self, range: Range<u64>) -> Result<bool> {
        Filter::reserve(self, range)
    }

    fn copy_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> Result<bool> {
        Filter::copy_from(self, offset, source, source_offset, length)
    }

    fn share_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> Result<(), NotShared> {
        Filter::share_from(self, offset, source, source_offset, length)
    }

    fn may_share_with(&self, source: &dyn Storage) -> bool {
        Filter::may_share_with(self, source)
    }

    fn writes_serially(&self) -> bool {
        Filter::writes_serially(self)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        Filter::next_data(self, offset)
    }

    fn allocated(&self) -> Result<Option<u64>> {
        Filter::allocated(self)
    }

    fn flush(&self) -> Result<()> {
        Filter::flush(self)
    }

    fn starts_as_zeroes(&self) -> bool {
        Filter::starts_as_zeroes(self)
    }

    fn identity(&self) -> Result<Identity> {
        Filter::identity(self)
    }

    fn location(&self) -> &OsStr {
        Filter::location(self)
    }

    fn driver(&self) -> &'static str {
        Filter::driver(self)
    }

    fn claim(&self, claim: Claim) -> Result<()> {
        Filter::claim(self, claim)
    }

    fn leave_cache(&self) -> Result<()> {
        Filter::leave_cache(self)
    }

    fn has_fixed_length(&self) -> bool {
        Filter::has_fixed_length(self)
    }

    fn bypasses_cache(&self) -> bool {
        Filter::bypasses_cache(self)
    }

    fn ignore_holes(&self) {
        Filter::ignore_holes(self);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::storage::{MemoryStorage, Storage};

    /// A filter that changes only the bytes that are read.
    #[derive(Debug)]
    struct Inverted(MemoryStorage);

    impl super::Filter for Inverted {
        fn inner(&self) -> &dyn Storage {
            &self.0
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> crate::error::Result<usize> {
            let read = self.0.read_at(offset, buf)?;
            buf.iter_mut().for_each(|byte| *byte = !*byte);
            Ok(read)
        }
    }

    #[test]
    fn only_what_a_filter_implements_is_changed() {
        let filter: Arc<dyn Storage> = Arc::new(Inverted(MemoryStorage::new(vec![1; 8192])));
        filter.write_at(0, &[2; 4]).unwrap();
        filter.punch(4096..8192).unwrap();
        let mut buf = [0; 5];
        filter.read_exact_at(0, &mut buf, "bytes").unwrap();
        assert_eq!(buf, [!2, !2, !2, !2, !1]);
        assert_eq!(filter.next_data(0).unwrap(), Some(0..4096));
        filter.set_len(5).unwrap();
        assert_eq!(
            (filter.len().unwrap(), filter.allocated().unwrap()),
            (5, Some(5))
        );
        // The provided methods of `Storage` use the methods of the filter.
        assert_eq!(filter.read_padded_at(4, &mut buf, 5).unwrap(), 1);
        assert_eq!(buf, [!1, 0, 0, 0, 0]);
    }
}
