//! The table of characters with combining marks, which do not fit into a cell.

use super::cell::Cell;
use super::grid::{Grid, Line};
use std::mem;

/// Characters with combining marks, which do not fit into a cell.
///
/// Each belongs to one cell. What cells no longer hold is swept out once there are twice as many
/// as at the last sweep, so there are never more than cells on both screens, and half as many again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clusters {
    table: Vec<Cluster>,
    sweep_at: usize,
}

/// A character and the marks on it; those past the fifth are dropped.
pub(crate) type Cluster = [char; 6];

/// Fills the places of marks that are not there.
const NO_MARK: char = '\0';

/// With fewer than this a sweep is not worth its while.
const FIRST_SWEEP: usize = 64;

impl Clusters {
    /// The characters of one, in the order they came.
    pub(crate) fn chars(&self, index: usize) -> impl Iterator<Item = char> {
        self.table.get(index).into_iter().flatten().copied().take_while(|c| *c != NO_MARK)
    }

    pub(super) fn is_full(&self) -> bool {
        self.table.len() >= self.sweep_at.max(FIRST_SWEEP)
    }

    pub(super) fn add(&mut self, cell: &mut Cell, mark: char) {
        match cell.text() {
            Ok(base) => {
                cell.set_cluster(self.table.len());
                self.table.push([base, mark, NO_MARK, NO_MARK, NO_MARK, NO_MARK]);
            }
            Err(index) => {
                let cluster = self.table.get_mut(index).into_iter().flatten();
                if let Some(free) = cluster.into_iter().find(|c| **c == NO_MARK) {
                    *free = mark;
                }
            }
        }
    }

    pub(super) fn sweep<'a>(&mut self, grids: impl Iterator<Item = &'a mut Grid>) {
        let old = mem::take(&mut self.table);
        let cells = grids.flat_map(Grid::lines_mut).flat_map(Line::cells_mut);
        for cell in cells {
            if let Err(index) = cell.text()
                && let Some(cluster) = old.get(index)
            {
                cell.set_cluster(self.table.len());
                self.table.push(*cluster);
            }
        }
        self.sweep_at = self.table.len() * 2;
    }
}
