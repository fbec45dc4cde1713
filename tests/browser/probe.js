// Runs in the page under test and replaces it by what a person would have seen, as JSON.
addEventListener("load", () => {
  const look = (element) => {
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    return {
      text: element.innerText,
      title: element.title,
      kind: element.className,
      ink: style.color,
      ground: style.backgroundImage === "none" ? style.backgroundColor : style.backgroundImage,
      width: box.width,
      height: box.height,
      clipped: element.scrollWidth > element.clientWidth,
    };
  };
  const seen = {
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    overflow: document.documentElement.scrollWidth - innerWidth,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name),
    badge: look(document.querySelector(".badge")),
    cells: [...document.querySelectorAll("td.cell")].map(look),
    failures: [...document.querySelectorAll(".failures li")].map((item) => item.innerText),
  };
  const answer = document.createElement("pre");
  answer.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(seen))));
  document.documentElement.replaceChildren(answer);
});
