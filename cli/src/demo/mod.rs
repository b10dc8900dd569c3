//! `partywall demo`: a noisy neighbour on this machine, and a connection that nothing was in the way of, named by the real agent and
//! the real aggregator.
//!
//! `scene` makes the tenants, `story` tells what is seen and judges whether the case was proved, `reach` does so for the second act;
//! here is the order of events, and that everything is removed again whatever happened.

mod reach;
mod scene;
mod story;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::args::{Common, Demo, Tls};
use crate::client::Client;
use crate::exit::{Code, Failure, Outcome, reader_left};
use crate::host;
use crate::logs;
use crate::output::{Paint, Tone, print, print_json};
use crate::policy;
use crate::signal;
use crate::stack::{Options, Stack};
use partywall_proto::v1;
use scene::{BLUE, GREEN, PORT, RED, Scene};
use story::Witness;

/// Blue and green alone: long enough to see that all is well.
const QUIET_SECONDS: u64 = 4;
/// A report a second, two judgements: if nothing is known by then, nothing will be.
const READY_SECONDS: u64 = 10;
/// Red's time has to leave the window (10 s), then the breach has to stay away (5 s); twice that is a fault.
const RESOLVE_SECONDS: u64 = 30;
/// For draining and detaching.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) async fn run(common: &Common, args: &Demo) -> Outcome {
    host::allows("demo", &["ledger", "flows"])?;
    host::allows_network("demo")?;
    // The story is told on stdout; what else goes wrong is worth a line.
    logs::init("error");
    // The kernel times programs for as long as this is open. Refused without CAP_SYS_ADMIN: then that cost stays unknown.
    let _program_times = aya::sys::enable_stats(aya::sys::Stats::RunTime).ok();
    let interrupted = signal::interrupted()?;
    let teller = Teller {
        silent: common.json,
        paint: Paint::for_stdout(),
    };
    let mut stage = Stage {
        scene: Scene::make()?,
        stack: None,
    };
    let mut witness = Witness::default();
    let played = tokio::select! {
        biased;
        () = interrupted => Err(Failure::new(Code::Interrupted, anyhow!("interrupted"))),
        played = play(&mut stage, &mut witness, teller, args.seconds) => played,
    };
    let removed = stage.remove().await;
    match played {
        Ok(()) => conclude(
            &witness,
            &witness.document(args.seconds, None, removed.left_behind),
            &removed.summary,
            teller,
        ),
        Err(failure) => give_up(&witness, args.seconds, &failure, removed, teller),
    }
}

/// It ended before its end: says why, and what that left.
fn give_up(witness: &Witness, seconds: u32, failure: &Failure, removed: Removed, teller: Teller) -> Outcome {
    let why = if reader_left(&failure.error) {
        "stdout was closed before the case was proved".to_owned()
    } else {
        failure.to_string()
    };
    let cleared = if removed.left_behind.is_empty() {
        "everything was removed"
    } else {
        &removed.summary
    };
    let error = anyhow!("{why}; {cleared}");
    if teller.silent && failure.code != Code::Interrupted {
        print_json(&witness.document(seconds, Some(why), removed.left_behind))?;
    }
    Err(Failure {
        code: failure.code,
        error,
    })
}

/// What was proved, what it cost, what is left.
fn conclude(witness: &Witness, document: &story::Document, removed: &str, teller: Teller) -> Outcome {
    if teller.silent {
        print_json(document)?;
    }
    if document.proved {
        teller.tell(&format!(
            "\n{}\n{}\n{removed}\n",
            witness.proved(document),
            witness.price()
        ))?;
        return Ok(());
    }
    teller.tell(&format!("\n{removed}\n"))?;
    Err(anyhow!("not proved: {}", document.why_not.join("; ")).into())
}

/// Tells a person; says nothing where a program listens.
#[derive(Clone, Copy)]
struct Teller {
    silent: bool,
    paint: Paint,
}

impl Teller {
    fn tell(self, text: &str) -> std::io::Result<()> {
        if self.silent { Ok(()) } else { print(text) }
    }

    fn event(self, second: u64, text: &str) -> std::io::Result<()> {
        self.tell(&format!(
            "  {second:>2} s   {}\n",
            self.paint.tint(Tone::Strong, text)
        ))
    }
}

/// Everything that has to go again.
struct Stage {
    scene: Scene,
    stack: Option<Stack>,
}

struct Removed {
    left_behind: Vec<String>,
    summary: String,
}

impl Stage {
    /// The tenants first, so that their last counters are seen; then agent and aggregator; their YAML last, because until then the
    /// aggregator follows it and would call it broken.
    async fn remove(self) -> Removed {
        let cleared = tokio::task::block_in_place(|| self.scene.clear());
        let mut running = None;
        if let Some(stack) = self.stack {
            running = match tokio::time::timeout(STOP_TIMEOUT, stack.stop()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("agent or aggregator ({error:#})")),
                Err(_) => Some(format!(
                    "agent or aggregator (still running after {STOP_TIMEOUT:?})"
                )),
            };
        }
        let mut left_behind = tokio::task::block_in_place(|| cleared.close());
        left_behind.extend(running);
        let held = host::bpf_objects();
        if held > 0 {
            left_behind.push(format!("{held} eBPF objects"));
        }
        let summary = if left_behind.is_empty() {
            "Removed, and checked: cgroups, processes, network namespaces, eBPF programs and maps, temporary files. Nothing \
             is left."
                .to_owned()
        } else {
            format!("LEFT BEHIND: {}", left_behind.join(", "))
        };
        Removed { left_behind, summary }
    }
}

async fn play(stage: &mut Stage, witness: &mut Witness, teller: Teller, noisy_seconds: u32) -> Outcome {
    let cpu = stage.scene.cpu;
    teller.tell(&format!("Three tenants on CPU {cpu} of {}:\n", stage.scene.node))?;
    for role in [&BLUE, &GREEN, &RED] {
        teller.tell(&format!(
            "  {:<6} promised {:.2} cores; {}\n",
            role.tenant, role.promised_cores, role.about
        ))?;
    }
    stage.scene.start(&BLUE)?;
    stage.scene.start(&GREEN)?;
    let any = ([127, 0, 0, 1], 0).into();
    let stack = stage.stack.insert(
        Stack::start(Options {
            node: stage.scene.node.clone(),
            grpc_listen: any,
            http_listen: any,
            agent_http_listen: any,
            cluster_from: Some(stage.scene.manifests().to_owned()),
            policy: None,
        })
        .await?,
    );
    let queries = format!("http://{}", stack.aggregator.grpc_addr);
    teller.tell(&format!(
        "While it runs, look closer from another terminal:\n  partywall top --aggregator {queries}\n  curl -s \
         http://{}/metrics | grep ^partywall_\n\n",
        stack.aggregator.http_addr
    ))?;
    let client = Client::connect_to(&queries, &Tls::default()).await?;
    let mut clock = Clock::start(client, witness, &mut stage.scene, teller).await?;

    teller.tell(&story::headings())?;
    clock.run_for(QUIET_SECONDS).await?;
    teller.event(clock.second, "red starts 3 threads that never rest")?;
    clock.witness.red_started_unix_seconds = Some(unix_seconds());
    clock.scene.start(&RED)?;
    clock.run_for(u64::from(noisy_seconds)).await?;
    clock.scene.stop(&RED);
    clock.witness.red_stopped_unix_seconds = Some(unix_seconds());
    teller.event(
        clock.second,
        "red stops; its time leaves the window, and the breach has to stay away",
    )?;
    if clock.witness.fired() {
        for _ in 0..RESOLVE_SECONDS {
            if clock.witness.is_over() {
                break;
            }
            clock.run_for(1).await?;
        }
        second_act(&mut clock).await?;
    }
    Ok(())
}

/// After the first: nothing of it is to disturb what is measured there.
async fn second_act(clock: &mut Clock<'_>) -> Outcome {
    clock.figures = false;
    clock.teller.tell("\n")?;
    clock.teller.event(
        clock.second,
        &format!(
            "red's pod opens a TCP connection to blue's, {}:{PORT}; no NetworkPolicy is in the way",
            BLUE.address
        ),
    )?;
    clock.witness.reach.began_unix_seconds = Some(unix_seconds());
    tokio::task::block_in_place(|| clock.scene.connect())?;
    // One look more than is allowed: what comes too late is told as late.
    for _ in 0..=reach::NAMED_SECONDS {
        if clock.witness.reached().is_some() {
            break;
        }
        clock.run_for(1).await?;
    }
    if clock.witness.reached().is_none() {
        return Ok(());
    }
    let request = v1::GetFlowsRequest {
        from: RED.label(),
        to: BLUE.label(),
        ..v1::GetFlowsRequest::default()
    };
    let flows = clock.client.flows(request).await?.flows;
    if let Some(flow) = flows.into_iter().find(reach::is_flow) {
        clock.teller.tell(&reach::flow(&flow))?;
        clock.witness.reach.flow = Some(flow);
    }
    let suggestion = policy::suggested(&mut clock.client, clock.scene.manifests()).await?;
    clock.teller.event(
        clock.second,
        "from the flows seen, `partywall policy suggest` writes this; it is a suggestion, and nothing applies it",
    )?;
    clock.teller.tell(&reach::suggestion(&suggestion))?;
    clock.witness.reach.suggestion = Some(suggestion);
    Ok(())
}

/// One look a second.
struct Clock<'a> {
    began: Instant,
    /// Since the beginning.
    second: u64,
    tick: tokio::time::Interval,
    client: Client,
    witness: &'a mut Witness,
    scene: &'a mut Scene,
    teller: Teller,
    /// The first act's line a second.
    figures: bool,
}

impl<'a> Clock<'a> {
    /// Waits until the aggregator knows the tenants by name.
    async fn start(
        mut client: Client,
        witness: &'a mut Witness,
        scene: &'a mut Scene,
        teller: Teller,
    ) -> Result<Self, Failure> {
        let deadline = Instant::now() + Duration::from_secs(READY_SECONDS);
        while !story::knows_the_cast(&client.snapshot(true).await?) {
            scene.check()?;
            if Instant::now() > deadline {
                return Err(anyhow!(
                    "the aggregator saw neither blue nor green within {READY_SECONDS} s; run with RUST_LOG=info to see why"
                )
                .into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let began = Instant::now();
        let second = Duration::from_secs(1);
        let mut tick = interval_at(began + second, second);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            began,
            second: 0,
            tick,
            client,
            witness,
            scene,
            teller,
            figures: true,
        })
    }

    async fn run_for(&mut self, seconds: u64) -> Outcome {
        for _ in 0..seconds {
            self.tick.tick().await;
            self.second = (self.began.elapsed() + Duration::from_millis(500)).as_secs();
            self.scene.check()?;
            let snapshot = self.client.snapshot(true).await?;
            if self.figures {
                self.teller
                    .tell(&story::figures(self.second, &snapshot, self.teller.paint))?;
            }
            for breach in self.witness.observe(snapshot) {
                let cause = self.witness.cause(&breach);
                self.teller
                    .tell(&story::change(self.second, &breach, cause, self.teller.paint))?;
            }
        }
        Ok(())
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
