// The page is whole without this: it only adds a button that copies a command, and the local time of a session.
for (const code of document.querySelectorAll("code[data-copy]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  code.after(button);
}
for (const time of document.querySelectorAll("time")) {
  time.title = new Date(time.dateTime).toLocaleString() + " (local time)";
}
