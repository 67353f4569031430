//! Reads many clusters with several threads, and hands on what was made of each in order.
//!
//! The work is cut into batches; within a batch each thread takes what comes next, so a slow one
//! holds up nobody, and memory doesn't grow with the image.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Result;

/// How much is read in one batch, in bytes.
const BATCH: u64 = 8 << 20;
/// The most threads that are of use: beyond, the disk or the memory is what is waited for.
const MOST_THREADS: usize = 8;

/// Calls `make` for each item with some buffer of the calling thread, from several threads, and then
/// `take` with the results in the order of the items. `size` is about how many bytes one item takes.
///
/// # Errors
/// The first error of `make` in the order of the items, or of `take`.
pub fn each<T: Sync, R: Send>(
    items: &[T],
    size: u64,
    make: impl Fn(&T, &mut Vec<u8>) -> Result<R> + Sync,
    mut take: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = available.min(MOST_THREADS);
    let batch = usize::try_from(BATCH / size.max(1)).unwrap_or(1).max(8);
    let mut own_buffer = Vec::new();
    for batch in items.chunks(batch) {
        if threads == 1 || batch.len() < 8 {
            for item in batch {
                take(make(item, &mut own_buffer)?)?;
            }
            continue;
        }
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<(usize, Result<R>)>> = Mutex::new(Vec::with_capacity(batch.len()));
        let work = |buffer: &mut Vec<u8>| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = batch.get(index) else {
                    break;
                };
                let result = make(item, buffer);
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                results.push((index, result));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| work(&mut Vec::new()));
            }
            work(&mut own_buffer);
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(index, _)| *index);
        for (_, result) in results {
            take(result?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn results_come_in_order() {
        let items: Vec<u64> = (0..1000).collect();
        let mut taken = Vec::new();
        let double = |item: &u64, _: &mut Vec<u8>| Ok(item * 2);
        each(&items, 1 << 18, double, |result| {
            taken.push(result);
            Ok(())
        })
        .unwrap();
        assert_eq!(taken, (0..1000).map(|item| item * 2).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_error_ends_it() {
        let items: Vec<u64> = (0..1000).collect();
        let mut taken = 0;
        let fail = |item: &u64, _: &mut Vec<u8>| match item {
            300 | 400 => Err(Error::invalid(item.to_string())),
            _ => Ok(()),
        };
        let error = each(&items, 1 << 18, fail, |()| {
            taken += 1;
            Ok(())
        });
        assert_eq!(error.unwrap_err().to_string(), "300");
        assert_eq!(taken, 300);
    }
}
