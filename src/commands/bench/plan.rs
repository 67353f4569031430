//! The requests of a run, as data.

/// The requests that are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestPlan {
    /// The number of requests, at least 1.
    pub count: u64,
    /// The number of those that are under way at once, at least 1.
    pub depth: u64,
    /// The size of a request in bytes, at least 1.
    pub size: usize,
    /// The offset of the first one in bytes.
    pub offset: u64,
    /// The number of bytes from the start of one to the start of the next. Those that would start behind the disk's
    /// end go on at its start.
    pub step: u64,
    /// The byte that is written; `None` to read.
    pub pattern: Option<u8>,
    /// The number of requests after which there is a flush; 0 for none.
    pub flush_interval: u64,
    /// True if a flush waits for all requests before it.
    pub drains: bool,
}
