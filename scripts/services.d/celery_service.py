"""A Celery application with redis as broker; run as a program, the front end that asks its worker by HTTP."""
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import leak
from celery import Celery

app = Celery("celery_service", broker=os.environ["BROKER"], backend=os.environ["BROKER"])


@app.task
def work(request):
    return leak.answer(request)


class Front(BaseHTTPRequestHandler):
    def do_GET(self):
        body = work.delay(self.path).get(timeout=10).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Front).serve_forever()
