//! What `top` shows, and what each key does to it. No terminal, no clock.

use std::sync::Arc;
use std::time::Instant;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::feed::{Lost, Update};
use crate::model::{Breach, Snapshot};
use crate::show;
use crate::table::Table;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Tenants,
    Pods,
    Ledger,
    Breaches,
    Flows,
}

impl View {
    pub(crate) const ALL: [Self; 5] = [
        Self::Tenants,
        Self::Pods,
        Self::Ledger,
        Self::Breaches,
        Self::Flows,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tenants => "tenants",
            Self::Pods => "pods",
            Self::Ledger => "ledger",
            Self::Breaches => "breaches",
            Self::Flows => "flows",
        }
    }
}

#[derive(Debug)]
pub(crate) struct App {
    pub view: View,
    pub filter: String,
    /// The filter is being typed: letters are no commands.
    pub typing: bool,
    pub paused: bool,
    pub help: bool,
    pub done: bool,
    pub snapshot: Arc<Snapshot>,
    pub received: Option<Instant>,
    pub lost: Option<Lost>,
    /// By view: which of its orders.
    sorts: [usize; View::ALL.len()],
    /// By view: the row the cursor is on.
    rows: [usize; View::ALL.len()],
    /// The ledger's first runner shown.
    pub column: usize,
    /// The breach the cursor is on stays selected while others come and go.
    chosen: Option<String>,
}

impl App {
    pub(crate) fn new() -> Self {
        Self {
            view: View::Tenants,
            filter: String::new(),
            typing: false,
            paused: false,
            help: false,
            done: false,
            snapshot: Arc::default(),
            received: None,
            lost: None,
            sorts: [0; View::ALL.len()],
            rows: [0; View::ALL.len()],
            column: 0,
            chosen: None,
        }
    }

    /// Takes the newest answer. Paused: only whether there is one.
    pub(crate) fn receive(&mut self, update: &Update) {
        self.lost.clone_from(&update.lost);
        if !self.paused || self.received.is_none() {
            self.snapshot = Arc::clone(&update.snapshot);
            self.received = Some(update.received);
        }
    }

    pub(crate) fn sort(&self) -> usize {
        self.sorts[self.view as usize]
    }

    pub(crate) fn sort_name(&self) -> &'static str {
        match self.view {
            View::Tenants => show::pick(show::tenants::SORTS, self.sort()).name,
            View::Pods => show::pick(show::pods::SORTS, self.sort()).name,
            View::Ledger => show::ledger::SORTS[self.sort() % show::ledger::SORTS.len()],
            View::Breaches => show::pick(show::breaches::SORTS, self.sort()).name,
            View::Flows => show::pick(show::traffic::SORTS, self.sort()).name,
        }
    }

    /// The view's rows, where it is a plain table.
    pub(crate) fn table(&self) -> Table {
        match self.view {
            View::Tenants => show::tenants::table(&self.snapshot, self.sort(), &self.filter),
            View::Pods => show::pods::table(&self.snapshot, self.sort(), &self.filter),
            View::Ledger => self.matrix().table(usize::MAX),
            View::Breaches => show::breaches::table(&self.snapshot, &self.breaches(), false),
            View::Flows => show::traffic::pairs(&self.snapshot, self.sort(), &self.filter),
        }
    }

    pub(crate) fn matrix(&self) -> show::ledger::Matrix {
        show::ledger::Matrix::new(&self.snapshot, self.sort(), &self.filter)
    }

    pub(crate) fn breaches(&self) -> Vec<&Breach> {
        show::breaches::listed(&self.snapshot, self.sort(), &self.filter)
    }

    /// The row under the cursor; `None` where there are no rows.
    pub(crate) fn selected(&self) -> Option<usize> {
        let last = self.length().checked_sub(1)?;
        let row = self.rows[self.view as usize];
        if self.view == View::Breaches
            && let Some(chosen) = &self.chosen
            && let Some(position) = self
                .breaches()
                .iter()
                .position(|breach| breach.fingerprint == *chosen)
        {
            return Some(position);
        }
        Some(row.min(last))
    }

    pub(crate) fn selected_breach(&self) -> Option<&Breach> {
        self.selected().and_then(|row| self.breaches().get(row).copied())
    }

    fn length(&self) -> usize {
        match self.view {
            View::Ledger => self.matrix().waiters.len(),
            View::Breaches => self.breaches().len(),
            View::Tenants | View::Pods | View::Flows => self.table().rows.len(),
        }
    }

    pub(crate) fn key(&mut self, key: KeyEvent) {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            self.done = true;
        } else if self.typing {
            self.type_filter(key.code);
        } else if self.help {
            // Any key leaves the page; only quitting means more.
            self.help = false;
            self.done = key.code == KeyCode::Char('q');
        } else {
            self.command(key.code);
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
    }

    fn command(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char('q') => self.done = true,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') => self.sorts[self.view as usize] += 1,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('1') => self.view = View::Tenants,
            KeyCode::Char('2') => self.view = View::Pods,
            KeyCode::Char('3') => self.view = View::Ledger,
            KeyCode::Char('4') => self.view = View::Breaches,
            KeyCode::Char('5') => self.view = View::Flows,
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(View::ALL.len() - 1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown => self.step(10),
            KeyCode::PageUp => self.step(-10),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Right if self.view == View::Ledger => {
                self.column = (self.column + 1).min(self.matrix().runners.len().saturating_sub(1));
            }
            KeyCode::Left if self.view == View::Ledger => self.column = self.column.saturating_sub(1),
            _ => {}
        }
    }

    fn turn(&mut self, views: usize) {
        self.view = View::ALL[(self.view as usize + views) % View::ALL.len()];
    }

    fn step(&mut self, rows: isize) {
        let last = self.length().saturating_sub(1);
        let row = self.selected().unwrap_or(0).saturating_add_signed(rows).min(last);
        self.rows[self.view as usize] = row;
        if self.view == View::Breaches {
            self.chosen = self.breaches().get(row).map(|breach| breach.fingerprint.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::State;
    use crate::sample;

    fn app() -> App {
        let mut app = App::new();
        app.snapshot = Arc::new(sample::snapshot());
        app
    }

    fn press(app: &mut App, codes: &[KeyCode]) {
        for code in codes {
            app.key(KeyEvent::from(*code));
        }
    }

    #[test]
    fn tab_goes_round_and_digits_go_straight() {
        let mut app = app();
        press(&mut app, &[KeyCode::Tab; 6]);
        assert_eq!(app.view, View::Pods);
        press(&mut app, &[KeyCode::BackTab, KeyCode::BackTab]);
        assert_eq!(app.view, View::Flows);
        press(&mut app, &[KeyCode::Char('3')]);
        assert_eq!(app.view, View::Ledger);
    }

    #[test]
    fn the_cursor_stays_inside() {
        let mut app = app();
        press(&mut app, &[KeyCode::Up]);
        assert_eq!(app.selected(), Some(0));
        press(&mut app, &[KeyCode::End, KeyCode::Down]);
        assert_eq!(app.selected(), Some(2));
        app.snapshot = Arc::default();
        assert_eq!(app.selected(), None);
        press(&mut app, &[KeyCode::Down]);
        assert_eq!(app.selected(), None);
        press(&mut app, &[KeyCode::Char('3'), KeyCode::Right, KeyCode::Left]);
        assert_eq!(app.column, 0);
    }

    #[test]
    fn sorting_is_per_view_and_goes_round() {
        let mut app = app();
        let first = app.sort_name();
        press(&mut app, &[KeyCode::Char('s'); 1]);
        assert_eq!(app.sort_name(), "taken");
        assert_eq!(app.table().rows[0].cells[0].text, "red");
        press(&mut app, &[KeyCode::Char('2')]);
        assert_eq!(app.sort_name(), "stolen");
        press(&mut app, &[KeyCode::Char('1')]);
        press(&mut app, &[KeyCode::Char('s'); 4]);
        assert_eq!(app.sort_name(), first);
    }

    #[test]
    fn a_chosen_breach_stays_chosen_while_the_list_moves() {
        let mut app = app();
        press(&mut app, &[KeyCode::Char('4'), KeyCode::Down, KeyCode::Down]);
        assert_eq!(
            app.selected_breach().map(|breach| breach.kind.as_str()),
            Some("QuotaExceeded")
        );
        let mut moved = sample::snapshot();
        moved.breaches[1].state = State::Firing;
        moved.breaches[1].since_unix_seconds = 2e9;
        app.snapshot = Arc::new(moved);
        assert_eq!(app.selected(), Some(0), "it is first now");
        assert_eq!(
            app.selected_breach().map(|breach| breach.kind.as_str()),
            Some("QuotaExceeded")
        );
    }

    #[test]
    fn letters_are_text_while_a_filter_is_typed() {
        let mut app = app();
        press(
            &mut app,
            &[KeyCode::Char('/'), KeyCode::Char('q'), KeyCode::Char('p')],
        );
        assert!(!app.done && !app.paused);
        assert_eq!(app.filter, "qp");
        press(
            &mut app,
            &[KeyCode::Backspace, KeyCode::Enter, KeyCode::Char('p')],
        );
        assert_eq!((app.filter.as_str(), app.paused), ("q", true));
        press(&mut app, &[KeyCode::Esc]);
        assert_eq!(app.filter, "");
    }

    #[test]
    fn control_c_always_ends_it() {
        for before in ["", "/", "?"] {
            let mut app = app();
            press(&mut app, &before.chars().map(KeyCode::Char).collect::<Vec<_>>());
            app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
            assert!(app.done);
        }
    }
}
