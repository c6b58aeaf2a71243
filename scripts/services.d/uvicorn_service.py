"""An ASGI application."""
import leak


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = leak.answer(scope["path"]).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
