// What is wrong with a page; each function returns a list of descriptions.

const channels = (color) => color.match(/[\d.]+/g).map(Number);
const linear = (value) => ((value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const isSolid = (color) => color !== "transparent" && (channels(color)[3] ?? 1) === 1;
const start = (element) => element.outerHTML.slice(0, 80);
const elements = (selector) => [...document.querySelectorAll(selector)].filter((element) => element.checkVisibility());

function paper(element) {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if (isSolid(color)) return channels(color);
  }
  return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
}

// Texts with less contrast than AA of WCAG 2.2 asks for: 4.5, or 3 for large ones.
function pale() {
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const [element, words] = [texts.currentNode.parentElement, texts.currentNode.data.trim()];
    if (!words || element.closest("script, style, option, title") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = channels(element instanceof SVGElement ? style.fill : style.color);
    const [light, dark] = [luminance(ink), luminance(paper(element))].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < (isLarge ? 3 : 4.5)) found.push(`${words.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return found;
}

// Elements that reach beyond the right edge of the window.
function wide() {
  const width = document.documentElement.clientWidth;
  const found = elements("body *").filter((element) => element.getBoundingClientRect().right > width + 1);
  return document.documentElement.scrollWidth > width ? ["the page scrolls sideways", ...found.map(start)] : found.map(start);
}

// Elements that a screen reader has no name for.
function unnamed() {
  const name = (e) => e.getAttribute("aria-label") || e.getAttribute("alt") || e.innerText?.trim() || e.labels?.length;
  const found = elements("button, select, input, textarea, audio, img, svg, a");
  return found.filter((element) => !element.closest('[aria-hidden="true"]') && !name(element)).map(start);
}

// Durations of all players in seconds; 0 for one that cannot play.
function durations() {
  const duration = (audio) =>
    audio.readyState >= 1
      ? audio.duration
      : new Promise((tell) => {
          audio.onloadedmetadata = () => tell(audio.duration);
          audio.onerror = () => tell(0);
          audio.load();
        });
  return Promise.all([...document.querySelectorAll("audio")].map(duration));
}
