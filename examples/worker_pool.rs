//! A worker pool: slow jobs that block a thread, a few at a time on each machine.
//!
//! ```text
//! cargo run --example worker_pool                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example worker_pool       # on RabbitMQ
//! ```
//!
//! Two workers, which take two jobs each, are given twelve. Another method is answered meanwhile, because it has a queue of its
//! own, and a job whose caller has gone stops halfway. The last line says how many ran at once: `at most 4 at once`.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rpc_core::{Connection, Context, Server, rpc};
use rpc_examples::{exit_code, url};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Renders pictures.
#[rpc]
pub trait Pictures {
    /// Renders a picture, in so many steps. It computes and never awaits, so it gets a thread of its own; and pictures take
    /// long, so its calls get more time than others.
    #[rpc(blocking, timeout = "5m")]
    fn render(steps: u32, #[ctx] cx: Context) -> u32;

    /// How many pictures are being rendered. It has a queue of its own, so that it need not wait for them.
    #[rpc(queue = "rpc.Pictures.status")]
    async fn running() -> usize;
}

#[derive(Clone, Default)]
struct Renderer(Arc<State>);

#[derive(Default)]
struct State {
    running: AtomicUsize,
    most: AtomicUsize,
    begun: Notify,
    stopped: Notify,
}

impl Pictures for Renderer {
    fn render(&self, steps: u32, cx: Context) -> u32 {
        let running = self.0.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(running, Ordering::SeqCst);
        self.0.begun.notify_one();
        let mut done = 0;
        // A thread cannot be stopped from outside: a long job asks from time to time whether anybody waits for it.
        while done < steps && !cx.is_cancelled() {
            std::thread::sleep(Duration::from_millis(10)); // Stands for real work.
            done += 1;
        }
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        if done < steps {
            self.0.stopped.notify_one();
        }
        done
    }

    async fn running(&self) -> usize {
        self.0.running.load(Ordering::SeqCst)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("worker_pool", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let connection = Connection::open(&url()).await?;
    // One object, to count what both do; in real life each worker is a process on a machine of its own.
    let renderer = Renderer::default();
    let mut workers = Vec::new();
    for _ in 0..2 {
        let worker = Server::builder(&connection)
            .service(PicturesDispatcher::new(renderer.clone()))
            // The broker hands out two requests of each queue: what a worker cannot begin stays where another one finds it.
            // (`concurrency` would limit all queues together, and let pictures keep `running` waiting.)
            .prefetch(2)
            .build()
            .start()
            .await?;
        workers.push(worker);
    }

    let pictures = PicturesClient::new(connection.client());
    let started = Instant::now();
    let mut jobs = JoinSet::new();
    for _ in 0..12 {
        jobs.spawn(pictures.render(20));
    }
    renderer.0.begun.notified().await;
    println!("running: {}", pictures.running().await?);
    while let Some(job) = jobs.join_next().await {
        let steps = job??;
        if steps != 20 {
            return Err(format!("a picture has only {steps} steps").into());
        }
    }
    println!("twelve pictures, after {:.1?}", started.elapsed());

    // Nobody waits for the picture any more, and the job notices. Its worker's place was taken until then.
    let abandoned = tokio::spawn(pictures.render(100_000));
    let begun = async {
        while pictures.running().await? == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, rpc_core::RpcError>(())
    };
    tokio::time::timeout(Duration::from_secs(5), begun).await??;
    abandoned.abort();
    tokio::time::timeout(Duration::from_secs(5), renderer.0.stopped.notified()).await?;
    println!("a picture that nobody waits for: stopped");

    for worker in workers {
        worker.shutdown().await?;
    }
    connection.close().await;
    let most = renderer.0.most.load(Ordering::SeqCst);
    if most > 4 {
        return Err(format!("{most} at once").into());
    }
    println!("at most {most} at once");
    Ok(())
}
