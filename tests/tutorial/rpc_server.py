"""A server of the form that RabbitMQ's RPC tutorial teaches: rpc_server.py URL QUEUE [quorum]

With `quorum` it declares the queue as the tutorial does now, without as it used to. It knows nothing of rpc-core: it takes the body for a number, and replies with the bare result and the request's
correlation_id, nothing else.
"""
import sys

import pika

url, queue, *queue_type = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
if queue_type == ["quorum"]:
    channel.queue_declare(queue=queue, durable=True, arguments={"x-queue-type": "quorum"})
else:
    channel.queue_declare(queue=queue)


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def on_request(channel, method, properties, body):
    n = int(body)
    print(f" [.] fib({n})", flush=True)
    channel.basic_publish(
        exchange="",
        routing_key=properties.reply_to,
        properties=pika.BasicProperties(correlation_id=properties.correlation_id),
        body=str(fib(n)),
    )
    channel.basic_ack(delivery_tag=method.delivery_tag)


channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue=queue, on_message_callback=on_request)
print(" [x] Awaiting RPC requests", flush=True)
channel.start_consuming()
