//! The plan of the requests of a run, as plain data.

/// The requests of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestPlan {
    /// The number of requests, at least 1.
    pub count: u64,
    /// The number of requests in flight, at least 1.
    pub depth: u64,
    /// The size of a request in bytes, at least 1.
    pub size: usize,
    /// The offset of the first request in bytes.
    pub offset: u64,
    /// The number of bytes from the start of one request to the start of the next. Requests wrap around at the end of
    /// the disk.
    pub step: u64,
    /// The byte that is written, or `None` to read.
    pub pattern: Option<u8>,
    /// The number of requests between two flushes, or 0 for no flushes.
    pub flush_interval: u64,
    /// True if a flush waits for all requests before it.
    pub drains: bool,
}
