//! Call sites as numbers.

use std::collections::HashMap;
use std::panic::Location;
use std::ptr;
use std::sync::{Mutex, PoisonError};

/// Sites that fit the bits an event has for them; further ones are site 0, unknown.
const MOST: usize = 1 << 24;

#[derive(Default)]
struct Sites {
    numbers: HashMap<&'static Location<'static>, u32>,
    sites: Vec<&'static Location<'static>>,
}

static SITES: Mutex<Option<Sites>> = Mutex::new(None);

fn intern(site: &'static Location<'static>) -> u32 {
    let mut sites = SITES.lock().unwrap_or_else(PoisonError::into_inner);
    let sites = sites.get_or_insert_default();
    if let Some(&number) = sites.numbers.get(site) {
        return number;
    }
    if sites.sites.len() + 1 >= MOST {
        return 0;
    }
    sites.sites.push(site);
    let number = sites.sites.len() as u32;
    sites.numbers.insert(site, number);
    number
}

/// Returns the site of a number; 0 is none.
pub(in crate::memory) fn site(number: u32) -> Option<&'static Location<'static>> {
    let sites = SITES.lock().unwrap_or_else(PoisonError::into_inner);
    sites.as_ref()?.sites.get((number as usize).checked_sub(1)?).copied()
}

/// A thread's memory of the sites it met last.
pub(super) struct SiteCache {
    entries: [(Option<&'static Location<'static>>, u32); 64],
}

impl SiteCache {
    pub(super) fn new() -> Self {
        SiteCache { entries: [(None, 0); 64] }
    }

    #[inline]
    pub(super) fn number(&mut self, site: &'static Location<'static>) -> u32 {
        let entry = &mut self.entries[ptr::from_ref(site).addr() / 8 % 64];
        match entry.0 {
            Some(known) if ptr::eq(known, site) => entry.1,
            _ => {
                *entry = (Some(site), intern(site));
                entry.1
            }
        }
    }
}
