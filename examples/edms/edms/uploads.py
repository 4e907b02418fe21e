"""Uploads that look like what people upload, made from a random generator and nothing else."""

import io
import os
import zipfile
from pathlib import Path

from django.core.files.base import ContentFile

WORDS = (
    "договор contract Vertrag contrat invoice Rechnung facture счёт 契約 請求書 report отчёт Prüfung "
    "naïve façade Größe amount сумма approved angenommen принято department bölüm отдел delivery "
    "Lieferung доставка review signature подпись deadline échéance срок annex Anhang приложение"
).split()
KINDS = ("pdf", "docx", "txt", "csv", "png")


def text(rng, size):
    """About `size` bytes of words in lines."""
    lines = []
    while size > 0:
        lines.append(" ".join(rng.choices(WORDS, k=rng.randint(6, 14))))
        size -= len(lines[-1].encode()) + 1
    return "\n".join(lines) + "\n"


def content(rng, kind, size):
    """About `size` bytes of one kind: some that compress well, some that do not compress at all."""
    match kind:
        case "txt":
            return text(rng, size).encode()
        case "csv":
            rows = (f"{n};{rng.choice(WORDS)};{rng.randint(1, 10**7) / 100:.2f}\r\n" for n in range(size // 26))
            return ("nr;что;amount\r\n" + "".join(rows)).encode()
        case "docx":
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
                body = f"<document><p>{text(rng, size)}</p></document>"
                archive.writestr(zipfile.ZipInfo("[Content_Types].xml"), "<Types/>")
                archive.writestr(zipfile.ZipInfo("word/document.xml"), body)
                archive.writestr(zipfile.ZipInfo("word/media/image1.jpeg"), rng.randbytes(size // 2))
            return buffer.getvalue()
        case "pdf":
            head = f"%PDF-1.7\n{text(rng, size // 3)}stream\n".encode()
            return head + rng.randbytes(size * 2 // 3) + b"\nendstream\n%%EOF\n"
        case "png":
            return b"\x89PNG\r\n\x1a\n" + rng.randbytes(size)


def attach(field_file, name, data, when):
    """Stores an upload for a record that is not saved yet, dated like the record."""
    field_file.save(name, ContentFile(data), save=False)
    os.utime(Path(field_file.path), (when.timestamp(), when.timestamp()))
