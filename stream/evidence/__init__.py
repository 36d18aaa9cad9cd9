"""What an alert can show: a picture with boxes and a clip, made from the packets around it.

The order of the data: ``settings`` says what is wanted, ``address`` where it will lie, ``requests`` what the aggregator
asks of the ingest that sent the frame (with its answer, see ``stream.deliver``). There ``packets`` holds the newest packets
of each source, and the ``desk`` has the frame decoded again (``decode``), drawn (``picture``), the clip cut (``cut``), and
both kept (``store``) for as long as ``retention`` allows.
"""
