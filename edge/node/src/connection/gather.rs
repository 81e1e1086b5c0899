//! Many small pieces in one write.

use super::batch::Batch;

/// Pieces up to this size are copied together into one write: cheaper than a vector of many small
/// pieces. A larger one is written from where it lies.
const GATHER_PIECE_MAX: usize = 8 * 1024;

/// What one write is to carry.
pub(crate) enum Gathered<'a> {
    /// So many bytes of the scratch buffer.
    Copied(usize),
    /// The first piece, or what is left of it.
    First(&'a [u8]),
}

/// Copies as many small pieces as fit into `scratch`; one alone, or a large one, is not copied.
pub(crate) fn gather<'a>(batch: &'a Batch, scratch: &mut [u8]) -> Gathered<'a> {
    let mut pieces = batch.pieces();
    let first = pieces.next().unwrap_or_default();
    let small = |s: &[u8]| s.len() <= GATHER_PIECE_MAX;
    let mut rest = pieces.peekable();
    if !small(first) || rest.peek().is_none_or(|next| !small(next)) {
        return Gathered::First(first);
    }
    scratch[..first.len()].copy_from_slice(first);
    let mut end = first.len();
    for piece in rest {
        if !small(piece) || end + piece.len() > scratch.len() {
            break;
        }
        scratch[end..end + piece.len()].copy_from_slice(piece);
        end += piece.len();
    }
    Gathered::Copied(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn small_frames_share_a_write() {
        let mut scratch = vec![0; 64 * 1024];
        let mut batch = Batch::default();
        batch.push(Bytes::from(vec![1; 100]));
        assert!(matches!(gather(&batch, &mut scratch), Gathered::First(f) if f.len() == 100));
        batch.push(Bytes::from(vec![2; 100]));
        batch.push(Bytes::from(vec![3; GATHER_PIECE_MAX + 1]));
        batch.push(Bytes::from(vec![4; 100]));
        assert!(matches!(
            gather(&batch, &mut scratch),
            Gathered::Copied(200)
        ));
        batch.advance(150);
        assert!(matches!(gather(&batch, &mut scratch), Gathered::First(f) if f.len() == 50));
        batch.advance(50);
        assert!(
            matches!(gather(&batch, &mut scratch), Gathered::First(f) if f.len() > GATHER_PIECE_MAX)
        );
        let mut many = Batch::default();
        for _ in 0..100 {
            many.push(Bytes::from(vec![5; 1000]));
        }
        assert!(matches!(
            gather(&many, &mut scratch),
            Gathered::Copied(65_000)
        ));
    }
}
