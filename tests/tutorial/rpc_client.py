"""A client of the form that RabbitMQ's RPC tutorial teaches: rpc_client.py URL QUEUE N

It knows nothing of rpc-core: the body is the bare number, and the only properties are reply_to, a queue that the broker
named, and correlation_id.
"""
import sys
import uuid

import pika

url, queue, n = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
callback_queue = channel.queue_declare(queue="", exclusive=True).method.queue
correlation_id = str(uuid.uuid4())
answers = []


def on_response(channel, method, properties, body):
    if properties.correlation_id == correlation_id:
        answers.append(body)


channel.basic_consume(queue=callback_queue, on_message_callback=on_response, auto_ack=True)

print(f" [x] Requesting fib({n})", flush=True)
channel.basic_publish(
    exchange="",
    routing_key=queue,
    properties=pika.BasicProperties(reply_to=callback_queue, correlation_id=correlation_id),
    body=str(n),
)
while not answers:
    connection.process_data_events(time_limit=None)
print(f" [.] Got {int(answers[0])}", flush=True)
connection.close()
