"use strict";

// The part of a page that changes is fetched again, unless a clip in it plays or it says that nothing more comes.
for (const part of document.querySelectorAll("[data-live]")) {
  const refresh = async () => {
    if (part.querySelector("[data-ended]")) return;
    const plays = [...part.querySelectorAll("audio")].some((audio) => !audio.paused);
    if (!plays && !document.hidden) {
      const answer = await fetch(`${location.pathname}?part`).catch(() => null);
      if (answer?.ok) part.innerHTML = await answer.text();
    }
    setTimeout(refresh, Number(part.dataset.live));
  };
  setTimeout(refresh, Number(part.dataset.live));
}
