"""Ten digits drawn by hand: strokes on a page of 100 x 140, as a pen went, and pictures made of them."""

from __future__ import annotations

from PIL import Image, ImageDraw

STROKES: dict[int, list[list[tuple[float, float]]]] = {
    0: [[(52, 12), (30, 22), (18, 55), (20, 95), (38, 126), (62, 124), (80, 98), (82, 55), (70, 22), (52, 12)]],
    1: [[(34, 40), (54, 14), (53, 70), (51, 128)]],
    2: [[(20, 40), (30, 18), (54, 10), (76, 24), (76, 50), (55, 80), (34, 104), (18, 126), (48, 124), (84, 124)]],
    3: [
        [(22, 20), (48, 10), (74, 22), (74, 46), (54, 62), (40, 64), (62, 68), (80, 86)],
        [(80, 86), (78, 112), (54, 128), (26, 120)],
    ],
    4: [[(60, 12), (38, 50), (16, 88), (50, 88), (88, 86)], [(64, 56), (62, 92), (60, 130)]],
    5: [[(78, 14), (34, 14), (28, 60), (54, 54), (78, 70), (80, 98), (62, 122), (38, 126), (18, 114)]],
    6: [[(68, 10), (42, 34), (26, 70), (24, 104), (44, 126), (70, 116), (76, 90), (58, 72), (36, 80), (26, 100)]],
    7: [[(18, 18), (50, 16), (82, 14), (66, 54), (52, 92), (44, 130)]],
    8: [
        [(70, 26), (48, 12), (28, 26), (34, 48), (54, 64), (74, 84), (74, 112), (52, 128)],
        [(52, 128), (28, 116), (28, 88), (50, 66), (70, 46), (70, 26)],
    ],
    9: [[(74, 36), (54, 14), (30, 24), (28, 50), (46, 62), (68, 54), (75, 34), (74, 70), (68, 128)]],
}


def drawing(digit: int, pen: int = 9, scale: float = 1.0, dark_ink: bool = True) -> Image.Image:
    """The digit in gray, with a margin of 30 on each side. `pen`: the width of its line, before scaling."""
    paper, ink = (255, 0) if dark_ink else (0, 255)
    image = Image.new("L", (round(160 * scale), round(200 * scale)), paper)
    draw = ImageDraw.Draw(image)
    width = max(1, round(pen * scale))
    for stroke in STROKES[digit]:
        points = [((x + 30) * scale, (y + 30) * scale) for x, y in stroke]
        draw.line(points, fill=ink, width=width, joint="curve")
        for x, y in points[:: len(points) - 1]:  # round ends
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=ink)
    return image
