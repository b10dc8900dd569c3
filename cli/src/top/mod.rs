//! `partywall top`: what the aggregator knows, live.
//!
//! `feed` asks, `app` is the state and what keys do to it, `draw` turns state into a frame, `once` into text.

mod app;
mod draw;
mod feed;
mod once;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use crossterm::event::{Event, EventStream, KeyEventKind};
use futures::StreamExt;
use ratatui::DefaultTerminal;

use crate::args::{Common, Top};
use crate::client::Client;
use crate::exit::{Failure, Outcome};
use crate::output::{Paint, print, print_json};
use crate::signal;
use app::App;

/// Ages on the screen move even when nothing arrives.
const TICK: Duration = Duration::from_millis(500);

pub(crate) async fn run(common: &Common, args: &Top) -> Outcome {
    let mut client = Client::connect(common, &args.of).await?;
    if common.json {
        return Ok(print_json(&client.snapshot(true).await?)?);
    }
    if args.once {
        return Ok(print(&once::text(
            &client.snapshot(true).await?,
            Paint::for_stdout(),
        ))?);
    }
    if !io::stdout().is_terminal() {
        return Err(
            anyhow!("top draws on a terminal, and stdout is none; --once prints the same as text").into(),
        );
    }
    // Before the screen is taken: a first answer, or a plain error line.
    let first = client.snapshot(true).await?;
    let interrupted = signal::interrupted()?;
    // From here on, a panic puts the terminal back before it speaks: ratatui's hook.
    let mut terminal = ratatui::try_init().context("preparing the terminal")?;
    let outcome = show(&mut terminal, client, first, interrupted).await;
    ratatui::try_restore().context("putting the terminal back")?;
    outcome
}

async fn show(
    terminal: &mut DefaultTerminal,
    client: Client,
    first: crate::model::Snapshot,
    interrupted: impl Future<Output = ()>,
) -> Outcome {
    let paint = Paint::for_stdout();
    let mut app = App::new();
    let mut feed = feed::start(client, first);
    app.receive(&feed.borrow_and_update());
    let mut keys = EventStream::new();
    let mut tick = tokio::time::interval(TICK);
    tokio::pin!(interrupted);
    loop {
        terminal.draw(|frame| draw::draw(frame, &app, Instant::now(), paint))?;
        tokio::select! {
            () = &mut interrupted => return Ok(()),
            _ = tick.tick() => {}
            changed = feed.changed() => {
                changed.context("the feed ended")?;
                app.receive(&feed.borrow_and_update());
            }
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => app.key(key),
                Some(Ok(_)) => {} // a resize: the next frame fits
                Some(Err(error)) => return Err(Failure::from(error)),
                None => return Ok(()), // the terminal is gone
            },
        }
        if app.done {
            return Ok(());
        }
    }
}
