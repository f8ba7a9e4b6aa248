"""The tutorial's client without a reply queue of its own: rpc_client_direct.py URL QUEUE N

It uses direct reply-to, the broker's shortcut: it consumes from a name that stands for no queue, and the broker puts
an address made up for this channel into reply_to.
"""
import sys

import pika

DIRECT = "amq.rabbitmq.reply-to"

url, queue, n = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
answers = []
channel.basic_consume(queue=DIRECT, on_message_callback=lambda *answer: answers.append(answer[-1]), auto_ack=True)

print(f" [x] Requesting fib({n})", flush=True)
channel.basic_publish(
    exchange="",
    routing_key=queue,
    properties=pika.BasicProperties(reply_to=DIRECT),
    body=str(n),
)
while not answers:
    connection.process_data_events(time_limit=None)
print(f" [.] Got {int(answers[0])}", flush=True)
connection.close()
