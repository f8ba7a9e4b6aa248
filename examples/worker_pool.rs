//! A worker pool: slow jobs that block a thread, a few at a time on each worker.
//!
//! ```text
//! cargo run --example worker_pool                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example worker_pool       # on RabbitMQ
//! ```
//!
//! Two workers run twelve jobs, two at a time each. Another method responds in the meantime, because it has a queue of its own. A job
//! whose caller is gone stops halfway. The last line is the highest number of concurrent jobs: `at most 4 at once`.

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
    /// Renders a picture in `steps` steps. The method computes and never awaits, so it gets a thread of its own. Pictures take long,
    /// so calls get more time than by default.
    #[rpc(blocking, timeout = "5m")]
    fn render(steps: u32, #[ctx] cx: Context) -> u32;

    /// Returns the number of pictures that are being rendered. The method has a queue of its own, so it does not wait for pictures.
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
        // A thread cannot be stopped from outside, so a long job checks for cancellation from time to time.
        while done < steps && !cx.is_cancelled() {
            std::thread::sleep(Duration::from_millis(10)); // stands for real work
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
    // The workers share one handler, to count their jobs. In production each worker is a process on its own machine.
    let renderer = Renderer::default();
    let mut workers = Vec::new();
    for _ in 0..2 {
        let worker = Server::builder(&connection)
            .service(PicturesDispatcher::new(renderer.clone()))
            // The broker hands two requests of each queue to a worker. The others stay in the queue, where another worker can take
            // them. (`concurrency` would limit all queues together, so pictures would delay `running`.)
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

    // The job notices that its caller is gone. Until then it keeps its place in the worker.
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
    println!("a picture without a caller: stopped");

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
