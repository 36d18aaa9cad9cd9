"""A small RTSP camera simulator: PyAV and the standard library only.

Loops H.264 or HEVC files on any number of mounts without re-encoding: RTP over TCP (interleaved) and UDP, RTCP sender
reports with NTP time, Basic or Digest authentication, and faults on demand::

    with CameraServer({"cam0": "clip.mp4"}, user="viewer", password="secret") as server:
        av.open(server.url("cam0"), options={"rtsp_transport": "tcp"})
        server.fault("cam0", "stall")    # stall | drop | corrupt | jump | slow | None
        server.kick("cam0")              # close its clients
        server.down("cam0")              # this mount is gone: its clients are closed, new ones get 404
        server.up("cam0")
        server.stop(); server.start()    # the whole camera lost, and back on the same port

From a shell: ``python -m stream.testing.rtsp_server clip.mp4 --mounts 16 --port 8554 [--user u --password p]``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import os
import random
import secrets
import socket
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Literal, Self

import av

NTP_EPOCH_S = 2_208_988_800
RTP_HZ = 90_000
MTU_BYTES = 1400
MAX_UNSENT_BYTES = 16 << 20
Fault = Literal["stall", "drop", "corrupt", "jump", "slow"]
SLOWER = 0.5  # a slow camera's line takes so many frame intervals longer for each frame: pictures come later and later


def nal_units(data: bytes) -> list[bytes]:
    """Split an Annex B access unit."""
    units, at = [], data.find(b"\0\0\1")
    while at >= 0:
        end = data.find(b"\0\0\1", at + 3)
        unit = data[at + 3 :] if end < 0 else data[at + 3 : end].rstrip(b"\0")
        if unit:
            units.append(unit)
        at = end
    return units


class Clip:
    """All access units of a file in decode order, as (pts in 1/90000 s, is key frame, NAL units)."""

    def __init__(self, path: str | os.PathLike[str]):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            self.codec = stream.codec_context.name
            if self.codec not in ("h264", "hevc"):
                raise ValueError(f"{path}: {self.codec} is not served")
            mp4 = (stream.codec_context.extradata or b"")[:1] == b"\1"
            annex_b = av.BitStreamFilterContext(f"{self.codec}_mp4toannexb", stream) if mp4 else None
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.step = int(RTP_HZ / rate)
            ticks = RTP_HZ * (stream.time_base or Fraction(1, RTP_HZ))  # of RTP time in one of the file's
            self.units: list[tuple[int, bool, list[bytes]]] = []
            for packet in container.demux(stream):
                if packet.size:
                    for unit in annex_b.filter(packet) if annex_b else [packet]:
                        pts = unit.pts if unit.pts is not None else unit.dts
                        self.units.append((round((pts or 0) * ticks), unit.is_keyframe, nal_units(bytes(unit))))
        first = min(pts for pts, _, _ in self.units)
        self.units = [(pts - first, key, nals) for pts, key, nals in self.units]
        self.length = max(pts for pts, _, _ in self.units) + self.step
        wanted = (7, 8) if self.codec == "h264" else (32, 33, 34)
        self.parameters: dict[int, bytes] = {}
        for _, _, nals in self.units:
            for nal in nals:
                if self._kind(nal) in wanted:
                    self.parameters.setdefault(self._kind(nal), nal)
        for i, (pts, key, nals) in enumerate(self.units):  # parameter sets before every key frame, once
            if key and wanted[-2] not in {self._kind(nal) for nal in nals}:
                self.units[i] = (pts, key, [self.parameters[kind] for kind in wanted] + nals)

    def _kind(self, nal: bytes) -> int:
        return nal[0] & 31 if self.codec == "h264" else nal[0] >> 1 & 63

    def sdp_lines(self) -> str:
        sets = {kind: base64.b64encode(nal).decode() for kind, nal in self.parameters.items()}
        if self.codec == "h264":
            profile = self.parameters[7][1:4].hex()
            return (
                f"a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;profile-level-id={profile};"
                f"sprop-parameter-sets={sets[7]},{sets[8]}\r\n"
            )
        return f"a=rtpmap:96 H265/90000\r\na=fmtp:96 sprop-vps={sets[32]};sprop-sps={sets[33]};sprop-pps={sets[34]}\r\n"

    def payloads(self, nals: list[bytes]) -> list[bytes]:
        """RTP payloads after RFC 6184 and RFC 7798: single NAL units and fragmentation units."""
        payloads = []
        for nal in nals:
            if len(nal) <= MTU_BYTES:
                payloads.append(nal)
                continue
            if self.codec == "h264":
                head, kind, body = bytes([nal[0] & 0xE0 | 28]), nal[0] & 31, nal[1:]
            else:
                head, kind, body = bytes([nal[0] & 0x81 | 49 << 1, nal[1]]), nal[0] >> 1 & 63, nal[2:]
            for at in range(0, len(body), MTU_BYTES):
                flags = (0x80 if at == 0 else 0) | (0x40 if at + MTU_BYTES >= len(body) else 0)
                payloads.append(head + bytes([flags | kind]) + body[at : at + MTU_BYTES])
        return payloads


class Client:
    """One playing client of one mount."""

    def __init__(
        self,
        writer: asyncio.StreamWriter,
        channel: int = 0,
        udp: tuple[tuple[socket.socket, socket.socket], str, int] | None = None,
    ):
        self.writer, self.channel, self.udp = writer, channel, udp
        self.started = False
        self._ssrc, self._sequence, self._base = random.getrandbits(32), random.getrandbits(16), random.getrandbits(31)
        self._packets = self._octets = 0
        self._reported_at = 0.0

    def send(self, payloads: list[bytes], ticks: int, clock_skew_s: float) -> None:
        if not self.udp and self.writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            return  # a slow reader loses the access unit
        now, rtp_time = time.time(), (self._base + ticks) & 0xFFFFFFFF
        messages: list[tuple[int, bytes]] = []
        if now - self._reported_at > 1.0:
            self._reported_at = now
            messages.append((1, self._sender_report(now + clock_skew_s + NTP_EPOCH_S, rtp_time)))
        for i, payload in enumerate(payloads):
            self._sequence = self._sequence + 1 & 0xFFFF
            marker = 0x80 if i == len(payloads) - 1 else 0
            messages.append((0, struct.pack("!BBHII", 0x80, 96 | marker, self._sequence, rtp_time, self._ssrc) + payload))
            self._octets += len(payload)
        self._packets += len(payloads)
        if self.udp:
            sockets, host, port = self.udp
            for kind, message in messages:
                sockets[kind].sendto(message, (host, port + kind))
        else:
            framed = (struct.pack("!cBH", b"$", self.channel + kind, len(message)) + message for kind, message in messages)
            self.writer.write(b"".join(framed))

    def _sender_report(self, ntp_s: float, rtp_time: int) -> bytes:
        counts = self._packets & 0xFFFFFFFF, self._octets & 0xFFFFFFFF
        seconds, fraction = int(ntp_s) & 0xFFFFFFFF, int(ntp_s % 1 * 2**32)
        report = struct.pack("!BBHIIIIII", 0x80, 200, 6, self._ssrc, seconds, fraction, rtp_time, *counts)
        return report + struct.pack("!BBHIBB", 0x81, 202, 2, self._ssrc, 1, 1) + b"c\0"


class CameraServer:
    """Serves mounts from a thread of its own; a context manager. Control it from any thread."""

    def __init__(
        self,
        mounts: Mapping[str, str | os.PathLike[str]],
        *,
        port: int = 0,
        user: str = "",
        password: str = "",
        auth: Literal["basic", "digest"] = "digest",
        clock_skew_s: float = 0.0,
        begin_at: float | None = None,
    ):
        """``begin_at``: POSIX time of every mount's first frame; who starts later begins where the film is by then. By
        default it begins as the server starts."""
        clips = {str(path): Clip(path) for path in set(mounts.values())}
        self.clips = {name: clips[str(path)] for name, path in mounts.items()}
        self.port, self.user, self.password = port, user, password
        self._auth, self._skew_s, self._begin_at = auth, clock_skew_s, begin_at
        self._clients: dict[str, set[Client]] = {name: set() for name in mounts}
        self._faults: dict[str, Fault | None] = {}
        self._gone: set[str] = set()
        self._nonce = secrets.token_hex(8)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._payloads: dict[tuple[int, int], list[bytes]] = {}

    # -- control, from any thread

    def url(self, name: str, user: str | None = None, password: str | None = None) -> str:
        """Address of a mount, with the user and password to log in."""
        user = self.user if user is None else user
        login = f"{user}:{self.password if password is None else password}@" if user else ""
        return f"rtsp://{login}127.0.0.1:{self.port}/{name}"

    def fault(self, name: str, what: Fault | None) -> None:
        """Misbehave on a mount until told otherwise."""
        self._faults[name] = what

    def kick(self, name: str | None = None) -> None:
        """Close the connections of a mount's clients, or of all."""

        def abort() -> None:
            for mount, clients in self._clients.items():
                if name in (None, mount):
                    for client in list(clients):
                        client.writer.transport.abort()

        assert self._loop is not None
        self._loop.call_soon_threadsafe(abort)

    def down(self, name: str) -> None:
        """One mount is gone."""
        self._gone.add(name)
        self.kick(name)

    def up(self, name: str) -> None:
        """The mount is back."""
        self._gone.discard(name)

    def start(self) -> Self:
        """Listen; on the same port as before."""
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(ready)), name="camera-server", daemon=True)
        self._thread.start()
        if not ready.wait(5):
            raise RuntimeError("the camera simulator did not start")
        return self

    def stop(self) -> None:
        """Close every connection and stop listening."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(5)
            self._loop = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- the server

    async def serve(self, ready: threading.Event | None = None) -> None:
        """Run until ``stop``."""
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._clients = {name: set() for name in self.clips}
        sessions: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            sessions[writer] = task
            try:
                await self._session(reader, writer)
            finally:
                sessions.pop(writer, None)

        server = await asyncio.start_server(handle, "127.0.0.1", self.port, reuse_address=True)
        self.port = server.sockets[0].getsockname()[1]
        players = [asyncio.create_task(self._play(name, i)) for i, name in enumerate(self.clips)]
        if ready is not None:
            ready.set()
        await self._stopping.wait()
        server.close()
        for player in players:
            player.cancel()
        for writer in list(sessions):
            writer.transport.abort()
        await asyncio.gather(*players, *sessions.values(), return_exceptions=True)

    async def _play(self, name: str, index: int) -> None:
        """Pace one mount for all its clients."""
        clip = self.clips[name]
        wait_s = index * 0.002 if self._begin_at is None else self._begin_at - time.time()
        began_s, late_s, shift = time.monotonic() + wait_s, 0.0, 0
        count = max(0, int(-wait_s * RTP_HZ / clip.step))
        while True:
            turn, i = divmod(count, len(clip.units))
            pts, key, nals = clip.units[i]
            if self._faults.get(name) == "slow":
                late_s += SLOWER * clip.step / RTP_HZ
            await asyncio.sleep(max(0.0, began_s + late_s + count * clip.step / RTP_HZ - time.monotonic()))
            count += 1
            fault, clients = self._faults.get(name), self._clients[name]
            if fault == "jump":  # the camera's media clock steps by an hour
                shift, self._faults[name] = shift + 3600 * RTP_HZ, None
            if not clients or fault == "stall" or (fault == "drop" and random.random() < 0.2):
                continue
            payloads = self._payloads.setdefault((id(clip), i), []) or clip.payloads(nals)
            self._payloads[id(clip), i] = payloads
            if fault == "corrupt":
                payloads = [_damage(payload) for payload in payloads]
            for client in list(clients):
                if not client.started and not key:
                    continue  # begin on a key frame
                client.started = True
                try:
                    client.send(payloads, turn * clip.length + pts + shift, self._skew_s - late_s)
                except OSError:
                    clients.discard(client)

    def _allowed(self, method: str, headers: Mapping[str, str]) -> bool:
        if not self.user:
            return True
        given = headers.get("authorization", "")
        if self._auth == "basic":
            return given == "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if not given.startswith("Digest "):
            return False
        fields = dict(field.strip().split("=", 1) for field in given[7:].split(",") if "=" in field)
        fields = {key: value.strip('"') for key, value in fields.items()}
        login = _md5(f"{self.user}:cam:{self.password}")
        request = _md5(f"{method}:{fields.get('uri', '')}")
        want = _md5(f"{login}:{self._nonce}:{request}")
        return (fields.get("username"), fields.get("nonce"), fields.get("response")) == (self.user, self._nonce, want)

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it ends."""
        session_id, mine, sockets = secrets.token_hex(4), [], None
        writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError, ValueError):
            while True:
                head = await reader.readexactly(1)
                if head == b"$":  # RTCP from the client
                    _, size = struct.unpack("!BH", await reader.readexactly(3))
                    await reader.readexactly(size)
                    continue
                lines = (head + await reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")
                method, uri, _ = lines[0].split(" ", 2)
                headers = {key.lower(): value.strip() for key, value in (x.split(":", 1) for x in lines[1:] if ":" in x)}
                await reader.readexactly(int(headers.get("content-length") or 0))
                name = uri.split("://", 1)[-1].split("/", 1)[-1].split("?")[0].strip("/").removesuffix("/track0")
                status, extra, body = "200 OK", "", ""
                if method != "OPTIONS" and not self._allowed(method, headers):
                    status = "401 Unauthorized"
                    nonce = f', nonce="{self._nonce}"' if self._auth == "digest" else ""
                    extra = f'WWW-Authenticate: {self._auth.title()} realm="cam"{nonce}\r\n'
                elif method == "OPTIONS":
                    extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER\r\n"
                elif method in ("DESCRIBE", "SETUP", "PLAY") and (name not in self.clips or name in self._gone):
                    status = "404 Not Found"
                elif method == "DESCRIBE":
                    body = self._description(self.clips[name])
                    extra = f"Content-Base: {uri.rstrip('/')}/\r\nContent-Type: application/sdp\r\n"
                elif method == "SETUP":
                    transport = headers.get("transport", "")
                    options = dict(option.split("=", 1) for option in transport.split(";") if "=" in option)
                    if "TCP" in transport:
                        channel = int(options.get("interleaved", "0-1").split("-")[0])
                        mine.append((name, Client(writer, channel)))
                        extra = f"Transport: RTP/AVP/TCP;unicast;interleaved={channel}-{channel + 1}\r\n"
                    else:
                        sockets = sockets or _udp_pair()
                        port, own = int(options["client_port"].split("-")[0]), sockets[0].getsockname()[1]
                        mine.append((name, Client(writer, udp=(sockets, "127.0.0.1", port))))
                        extra = f"Transport: RTP/AVP;unicast;client_port={port}-{port + 1};server_port={own}-{own + 1}\r\n"
                elif method == "PLAY":
                    extra = "Range: npt=now-\r\n"
                size_line = f"Content-Length: {len(body)}\r\n" if body else ""
                answer = f"RTSP/1.0 {status}\r\nCSeq: {headers.get('cseq', '0')}\r\nSession: {session_id};timeout=60\r\n"
                writer.write((answer + extra + size_line + "\r\n" + body).encode())
                if method == "PLAY" and status == "200 OK":
                    for mount, client in mine:
                        self._clients[mount].add(client)
                if method == "TEARDOWN":
                    break
        for mount, client in mine:
            self._clients[mount].discard(client)
        for one in sockets or ():
            one.close()
        writer.close()

    @staticmethod
    def _description(clip: Clip) -> str:
        return (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nc=IN IP4 0.0.0.0\r\na=control:*\r\nm=video 0 RTP/AVP 96\r\n"
            f"a=control:track0\r\na=framerate:{RTP_HZ / clip.step:g}\r\n{clip.sdp_lines()}"
        )


def _damage(payload: bytes) -> bytes:
    if random.random() > 0.1 or len(payload) < 40:
        return payload
    return payload[:20] + random.randbytes(16) + payload[36:]


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _udp_pair() -> tuple[socket.socket, socket.socket]:
    """Two UDP sockets on an even port and the next one."""
    while True:
        even, odd = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        even.bind(("127.0.0.1", 0))
        port = even.getsockname()[1]
        with suppress(OSError):
            if port % 2 == 0:
                odd.bind(("127.0.0.1", port + 1))
                return even, odd
        even.close()
        odd.close()


def main() -> None:
    """Serve files on cam0, cam1, ... until Ctrl-C."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--mounts", type=int, default=1)
    parser.add_argument("--port", type=int, default=8554)
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--auth", choices=("basic", "digest"), default="digest")
    given = parser.parse_args()
    mounts = {f"cam{i}": given.files[i % len(given.files)] for i in range(given.mounts)}
    server = CameraServer(mounts, port=given.port, user=given.user, password=given.password, auth=given.auth)
    print(f"ready rtsp://127.0.0.1:{given.port}/cam0..{given.mounts - 1}", flush=True)
    with suppress(KeyboardInterrupt):
        asyncio.run(server.serve())


if __name__ == "__main__":
    main()
